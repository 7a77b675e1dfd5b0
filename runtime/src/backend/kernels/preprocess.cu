// A camera's frame → the network's input in one pass: colour conversion, resize, normalisation, transposition, padding.
//
// Equal, bit by bit, to segcore::preprocess::Preprocessor (spec: method.md, section 3, "Network input at inference"): bilinear
// with half-pixel centres, a triangle filter when shrinking more than twofold; rows are blended first, columns after. The
// taps come as tables, made by the same code (`Preprocessor::rows`, `columns`). Memory: every byte of the frame is read
// about once from device memory (its neighbours come from the cache), every value of the output is written once.
//
// YUYV, UYVY and NV12 are converted to whole RGB values first, as segcore::yuv does on the CPU, with the same factors: they are
// arguments, so the kernel knows no matrix and no range. Pixels share the colour of their pair (no interpolation of chroma).
#include "kernels.h"

#define GRAY8 0
#define RGB8 1
#define YUYV 2
#define UYVY 3
#define NV12 4

// Bits of the factors (segcore::yuv::SHIFT).
#define YUV_SHIFT 13

// Luma of black, and factors times 2^YUV_SHIFT: segcore::yuv::Conversion.
struct Conversion {
    int black, luma, red_v, green_u, green_v, blue_u;
};

__device__ inline float clamped(int value)
{
    value = (value + (1 << (YUV_SHIFT - 1))) >> YUV_SHIFT;
    return (float)(value < 0 ? 0 : value > 255 ? 255 : value);
}

__device__ inline void yuv_to_rgb(const Conversion& conversion, int y, int u, int v, float rgb[3])
{
    y = (y - conversion.black) * conversion.luma;
    u -= 128;
    v -= 128;
    rgb[0] = clamped(y + conversion.red_v * v);
    rgb[1] = clamped(y - conversion.green_u * u - conversion.green_v * v);
    rgb[2] = clamped(y + conversion.blue_u * u);
}

// The pixel (y, x) of a frame whose rows are `stride` bytes apart; NV12's second plane follows `height` rows of the first.
template <int FORMAT>
__device__ inline void pixel(const u8* frame, int stride, int height, const Conversion& conversion, int y, int x, float rgb[3])
{
    const u8* row = frame + (u64)y * stride;
    if (FORMAT == GRAY8) {
        rgb[0] = rgb[1] = rgb[2] = row[x];
    } else if (FORMAT == RGB8) {
        rgb[0] = row[3 * x];
        rgb[1] = row[3 * x + 1];
        rgb[2] = row[3 * x + 2];
    } else if (FORMAT == YUYV) {
        const u8* pair = row + (x / 2) * 4;
        yuv_to_rgb(conversion, row[2 * x], pair[1], pair[3], rgb);
    } else if (FORMAT == UYVY) {
        const u8* pair = row + (x / 2) * 4;
        yuv_to_rgb(conversion, row[2 * x + 1], pair[0], pair[2], rgb);
    } else {
        const u8* pair = frame + ((u64)height + y / 2) * stride + (x / 2) * 2;
        yuv_to_rgb(conversion, row[x], pair[0], pair[1], rgb);
    }
}

// `TAPS` > 0: this many taps on both axes, known to the compiler. 0: as many as the arguments say.
template <int FORMAT, int TAPS>
__device__ inline void resampled(const u8* frame, int stride, int height, const Conversion& conversion, int first_row,
                                 int num_rows, const float* row_weights, int first_column, int num_columns,
                                 const float* column_weights, float sum[3])
{
    sum[0] = sum[1] = sum[2] = 0.0f;
    const int rows = TAPS ? TAPS : num_rows, columns = TAPS ? TAPS : num_columns;
#pragma unroll(TAPS ? TAPS : 1)
    for (int column = 0; column < columns; column++) {
        float blended[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll(TAPS ? TAPS : 1)
        for (int row = 0; row < rows; row++) {
            float rgb[3];
            pixel<FORMAT>(frame, stride, height, conversion, first_row + row, first_column + column, rgb);
            for (int c = 0; c < 3; c++)
                blended[c] += rgb[c] * row_weights[row];
        }
        for (int c = 0; c < 3; c++)
            sum[c] += blended[c] * column_weights[column];
    }
}

// One thread: four neighbouring pixels of the output (the padded width is a multiple of 4).
// content, padded: (width, height) pairs as separate numbers. starts/weights: [content][taps] per axis.
// gain, bias: value · gain + bias normalises. conversion: of YUV formats, unused by others. out: [3][padded height][padded width], float or half.
template <int FORMAT, bool HALF>
__device__ inline void preprocess(const u8* frame, int stride, int height, const u32* row_starts, const float* row_weights,
                                  int row_taps, const u32* column_starts, const float* column_weights, int column_taps,
                                  int content_width, int content_height, int padded_width, int padded_height, float gain0,
                                  float gain1, float gain2, float bias0, float bias1, float bias2, const Conversion& conversion,
                                  void* out)
{
    const int groups = padded_width / 4;
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= groups * padded_height)
        return;
    const int y = at / groups, x = at % groups * 4;
    const float gain[3] = {gain0, gain1, gain2}, bias[3] = {bias0, bias1, bias2};
    float values[3][4] = {};
    if (y < content_height) {
        const int first_row = row_starts[y];
        const float* weights = row_weights + (u64)y * row_taps;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (x + i >= content_width)
                break;
            const int first_column = column_starts[x + i];
            const float* columns = column_weights + (u64)(x + i) * column_taps;
            float sum[3];
            if (row_taps == 2 && column_taps == 2)
                resampled<FORMAT, 2>(frame, stride, height, conversion, first_row, 2, weights, first_column, 2, columns,
                                     sum);
            else
                resampled<FORMAT, 0>(frame, stride, height, conversion, first_row, row_taps, weights, first_column,
                                     column_taps, columns, sum);
            for (int c = 0; c < 3; c++)
                values[c][i] = sum[c] * gain[c] + bias[c];
        }
    }
    const u64 plane = (u64)padded_width * padded_height;
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const u64 place = c * plane + (u64)y * padded_width + x;
        if (HALF) {
            ushort4 four;
            four.x = float_to_half(values[c][0]);
            four.y = float_to_half(values[c][1]);
            four.z = float_to_half(values[c][2]);
            four.w = float_to_half(values[c][3]);
            *(ushort4*)((u16*)out + place) = four;
        } else {
            float4 four;
            four.x = values[c][0];
            four.y = values[c][1];
            four.z = values[c][2];
            four.w = values[c][3];
            *(float4*)((float*)out + place) = four;
        }
    }
}

#define PREPROCESS(NAME, FORMAT, HALF)                                                                                     \
    extern "C" __global__ void NAME(const u8* frame, int stride, int height, const u32* row_starts,                        \
                                    const float* row_weights, int row_taps, const u32* column_starts,                      \
                                    const float* column_weights, int column_taps, int content_width, int content_height,   \
                                    int padded_width, int padded_height, float gain0, float gain1, float gain2,            \
                                    float bias0, float bias1, float bias2, int black, int luma, int red_v,                 \
                                    int green_u, int green_v, int blue_u, void* out)                                       \
    {                                                                                                                      \
        const Conversion conversion = {black, luma, red_v, green_u, green_v, blue_u};                                      \
        preprocess<FORMAT, HALF>(frame, stride, height, row_starts, row_weights, row_taps, column_starts, column_weights,  \
                                 column_taps, content_width, content_height, padded_width, padded_height, gain0, gain1,    \
                                 gain2, bias0, bias1, bias2, conversion, out);                                             \
    }

PREPROCESS(preprocess_gray, GRAY8, false)
PREPROCESS(preprocess_rgb, RGB8, false)
PREPROCESS(preprocess_yuyv, YUYV, false)
PREPROCESS(preprocess_uyvy, UYVY, false)
PREPROCESS(preprocess_nv12, NV12, false)
PREPROCESS(preprocess_gray_half, GRAY8, true)
PREPROCESS(preprocess_rgb_half, RGB8, true)
PREPROCESS(preprocess_yuyv_half, YUYV, true)
PREPROCESS(preprocess_uyvy_half, UYVY, true)
PREPROCESS(preprocess_nv12_half, NV12, true)

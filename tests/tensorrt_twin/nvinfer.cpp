// A stand-in for libnvinfer and libnvonnxparser, built against the same headers as the shim, so that everything on our side of
// TensorRT's virtual tables is tested without a GPU: who makes and destroys what, in which order, shapes, addresses, errors.
// What it computes is no network's output, but depends on all inputs, smoothly: features of cells by their colours, transitions by
// features and positions. It works on streams of the stand-in for libcuda, when somebody waits for them. `stubs.h` is generated (tests/build.rs): every function of TensorRT's
// interfaces that is not overridden here ends the process by its name.
//
// FAKE_TENSORRT_VERSION  what getInferLibVersion says
// FAKE_TENSORRT_FAIL     parse, build, load, context, shape, enqueue: what goes wrong; capture: runs that are captured as a graph;
//                        nan: a feature that is no number; nan-black: the same, of black frames alone
// FAKE_CUDA_FAIL_FILE    enqueue, batch: runs, and those of more than one frame, do not start for as long as it says so
// FAKE_TENSORRT_TRACE    a file that gets a line for each object made (+) and destroyed (-), and each call worth a line
// FAKE_TENSORRT_SLOW     milliseconds that a build takes
// FAKE_TENSORRT_TIMED    what a build adds to the timing cache, `timed` by itself
#include "stubs.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

using namespace nvinfer1;

namespace {

std::string variable(char const* name)
{
    char const* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

bool fails(char const* what)
{
    return variable("FAKE_TENSORRT_FAIL") == what;
}

void trace(std::string const& line)
{
    std::string const path = variable("FAKE_TENSORRT_TRACE");
    if (path.empty())
    {
        return;
    }
    if (FILE* file = std::fopen(path.c_str(), "a"))
    {
        std::fprintf(file, "%s\n", line.c_str());
        std::fclose(file);
    }
}

ILogger* the_logger = nullptr;

void say(ILogger::Severity severity, char const* text)
{
    if (the_logger != nullptr)
    {
        the_logger->log(severity, text);
    }
}

struct TensorSpec
{
    std::string name;
    bool is_input = false;
    std::vector<int64_t> dims;  // -1: varies
    std::vector<int64_t> least, best, most;
};

Dims to_dims(std::vector<int64_t> const& from)
{
    Dims dims{};
    dims.nbDims = static_cast<int32_t>(from.size());
    for (size_t i = 0; i < from.size(); ++i)
    {
        dims.d[i] = from[i];
    }
    return dims;
}

std::vector<int64_t> from_dims(Dims const& dims)
{
    return {dims.d, dims.d + dims.nbDims};
}

// What of ONNX's protobuf tells names and shapes.
struct Reader
{
    unsigned char const* at;
    unsigned char const* end;

    uint64_t number()
    {
        uint64_t value = 0;
        for (int shift = 0; at < end; shift += 7)
        {
            unsigned char const byte = *at++;
            value |= static_cast<uint64_t>(byte & 127) << shift;
            if (byte < 128)
            {
                break;
            }
        }
        return value;
    }

    // The next field; `inner` is what it holds if it has a length.
    bool field(uint64_t& id, uint64_t& value, Reader& inner)
    {
        if (at >= end)
        {
            return false;
        }
        uint64_t const key = number();
        id = key >> 3;
        inner = {at, at};
        switch (key & 7)
        {
        case 0: value = number(); break;
        case 1: at += 8; break;
        case 5: at += 4; break;
        default:
            value = number();
            if (value > static_cast<uint64_t>(end - at))
            {
                at = end;
                return false;
            }
            inner = {at, at + value};
            at += value;
        }
        return true;
    }

    std::string text() const
    {
        return {at, end};
    }
};

TensorSpec tensor_of(Reader info, bool is_input)
{
    TensorSpec spec;
    spec.is_input = is_input;
    uint64_t id, value;
    Reader type{}, tensor{}, shape{}, dim{}, inner{};
    while (info.field(id, value, type))
    {
        if (id == 1)
        {
            spec.name = type.text();
        }
        else if (id == 2)
        {
            while (type.field(id, value, tensor))
            {
                while (id == 1 && tensor.field(id, value, shape))
                {
                    while (id == 2 && shape.field(id, value, dim))
                    {
                        int64_t length = -1;
                        while (dim.field(id, value, inner))
                        {
                            length = id == 1 ? static_cast<int64_t>(value) : -1;
                        }
                        spec.dims.push_back(length);
                        id = 2;
                    }
                    id = 1;
                }
            }
        }
    }
    return spec;
}

std::vector<TensorSpec> tensors_of(void const* onnx, size_t length)
{
    auto const* bytes = static_cast<unsigned char const*>(onnx);
    std::vector<TensorSpec> tensors;
    Reader model{bytes, bytes + length}, graph{}, info{};
    uint64_t id, value;
    while (model.field(id, value, graph))
    {
        while (id == 7 && graph.field(id, value, info))
        {
            if (id == 11 || id == 12)
            {
                tensors.push_back(tensor_of(info, id == 11));
            }
            id = 7;
        }
    }
    return tensors;
}

std::string join(std::vector<int64_t> const& numbers)
{
    std::string text = std::to_string(numbers.size());
    for (int64_t number : numbers)
    {
        text += " " + std::to_string(number);
    }
    return text;
}

char const kMagic[] = "FAKE ENGINE 1\n";

std::string encode(std::vector<TensorSpec> const& tensors)
{
    std::string text = kMagic;
    for (TensorSpec const& spec : tensors)
    {
        text += spec.name + (spec.is_input ? " in " : " out ") + join(spec.dims) + " " + join(spec.least) + " "
            + join(spec.most) + "\n";
    }
    return text + std::string(100000, '.');  // engines are large
}

std::vector<TensorSpec> decode(std::string const& text)
{
    std::vector<TensorSpec> tensors;
    size_t at = sizeof kMagic - 1;
    while (at < text.size() && text[at] != '.')
    {
        size_t const end = text.find('\n', at);
        std::string const line = text.substr(at, end - at);
        at = end + 1;
        TensorSpec spec;
        char name[200], kind[8];
        int used = 0;
        std::sscanf(line.c_str(), "%199s %7s%n", name, kind, &used);
        spec.name = name;
        spec.is_input = std::strcmp(kind, "in") == 0;
        for (auto* numbers : {&spec.dims, &spec.least, &spec.most})
        {
            int count = 0, read = 0;
            std::sscanf(line.c_str() + used, "%d%n", &count, &read);
            used += read;
            for (int i = 0; i < count; ++i)
            {
                long long number = 0;
                std::sscanf(line.c_str() + used, "%lld%n", &number, &read);
                used += read;
                numbers->push_back(number);
            }
        }
        tensors.push_back(spec);
    }
    return tensors;
}

// Interfaces and implementations declare functions of the same names, so one object cannot be both: a pair.
#define PAIR(Name, Interface)                                                                                           \
    struct Name : Interface                                                                                             \
    {                                                                                                                   \
        explicit Name(Name##Impl* impl) : impl_(impl)                                                                   \
        {                                                                                                               \
            mImpl = impl;                                                                                               \
            trace("+" #Interface);                                                                                      \
        }                                                                                                               \
        ~Name() noexcept override                                                                                       \
        {                                                                                                               \
            trace("-" #Interface);                                                                                      \
        }                                                                                                               \
        std::unique_ptr<Name##Impl> impl_;                                                                              \
    };

struct MemoryImpl : apiv::SHostMemory
{
    std::string bytes;
    void* data() const noexcept override
    {
        return const_cast<char*>(bytes.data());
    }
    std::size_t size() const noexcept override
    {
        return bytes.size();
    }
};
PAIR(Memory, IHostMemory)

IHostMemory* memory(std::string const& bytes)
{
    auto* impl = new MemoryImpl;
    impl->bytes = bytes;
    return new Memory(impl);
}

// A tensor of a run.
struct Tensor
{
    bool is_input = false;
    std::vector<int64_t> dims;
    float* values = nullptr;

    size_t count() const
    {
        size_t count = 1;
        for (int64_t length : dims)
        {
            count *= static_cast<size_t>(length);
        }
        return count;
    }
};

using Tensors = std::map<std::string, Tensor>;

// A number in -1 … 1 that depends on `index` alone (as in tests/src/fake_backend.rs).
float noise(size_t index)
{
    uint32_t const mixed = (static_cast<uint32_t>(index) + 1) * 2654435761u;
    return static_cast<float>(mixed >> 8) / 8388608.0f - 1.0f;
}

// [3, height, width] → a unit vector per cell of 8×8 pixels by its mean colours and its contrast; of one frame of a batch.
void embed_one(Tensor const& image, Tensor const& out, size_t frame)
{
    size_t const height = image.dims[2], width = image.dims[3], dim = out.dims[1], columns = out.dims[3];
    size_t const cells = static_cast<size_t>(out.dims[2]) * columns;
    float const* const pixels = image.values + frame * 3 * height * width;
    float* const features = out.values + frame * dim * cells;
    std::vector<float> feature(dim);
    for (size_t cell = 0; cell < cells; ++cell)
    {
        float looks[4] = {};
        for (size_t channel = 0; channel < 3; ++channel)
        {
            for (size_t y = 0; y < 8; ++y)
            {
                float const* row = pixels + (channel * height + cell / columns * 8 + y) * width + cell % columns * 8;
                for (size_t x = 0; x < 8; ++x)
                {
                    looks[channel] += row[x] / 64;
                    looks[3] += x > 0 ? std::fabs(row[x] - row[x - 1]) / 64 : 0;
                }
            }
        }
        float squares = 0;
        for (size_t channel = 0; channel < dim; ++channel)
        {
            float angle = 0;
            for (size_t i = 0; i < 4; ++i)
            {
                angle += looks[i] * noise(channel * 5 + i);
            }
            feature[channel] = std::sin(2 * angle + 3 * noise(channel * 5 + 4));
            squares += feature[channel] * feature[channel];
        }
        for (size_t channel = 0; channel < dim; ++channel)
        {
            features[channel * cells + cell] = feature[channel] / std::fmax(std::sqrt(squares), 1e-6f);
        }
    }
    bool const is_black = std::all_of(pixels, pixels + height * width, [&](float value) { return value == pixels[0]; });
    if (fails("nan") || (is_black && fails("nan-black")))
    {
        features[5] = NAN;
    }
}

void embed(Tensor const& image, Tensor const& out)
{
    for (size_t frame = 0; frame < static_cast<size_t>(image.dims[0]); ++frame)
    {
        embed_one(image, out, frame);
    }
}

// [1, rows, columns]: every row's shares, which sum to one.
template <typename Logit>
void shares(Tensor const& out, Logit logit)
{
    size_t const rows = out.dims[1], columns = out.dims[2];
    for (size_t row = 0; row < rows; ++row)
    {
        float* const of_row = out.values + row * columns;
        float sum = 0;
        for (size_t column = 0; column < columns; ++column)
        {
            sum += of_row[column] = std::exp(logit(row, column));
        }
        for (size_t column = 0; column < columns; ++column)
        {
            of_row[column] /= sum;
        }
    }
}

void compute(Tensors const& tensors)
{
    auto const features = tensors.find("features");
    for (auto const& [name, tensor] : tensors)
    {
        if (tensor.is_input)
        {
            continue;
        }
        if (tensor.dims.size() == 4)
        {
            embed(tensors.at("image"), tensor);
        }
        else if (name == "transition_1" && features != tensors.end())
        {
            Tensor const &positions = tensors.at("positions"), &valid = tensors.at("valid");
            size_t const dim = features->second.dims[1], slots = tensor.dims[1], entries = positions.dims[1];
            shares(tensor, [&](size_t slot, size_t group) {
                float logit = 0;
                for (size_t d = 0; d < dim; ++d)
                {
                    logit += 4 * features->second.values[d * slots + slot] * noise(1000 + group * dim + d);
                }
                for (size_t t = 0; t < entries; ++t)
                {
                    logit += 2 * positions.values[t * slots + slot] * noise(5000 + group * entries + t);
                }
                return valid.values[slot] > 0 ? logit : 0;
            });
        }
        else if (name.compare(0, 11, "transition_") == 0)
        {
            size_t const columns = tensor.dims[2];
            shares(tensor, [&](size_t row, size_t column) { return 3 * noise(row * columns + column); });
        }
        else
        {
            std::memset(tensor.values, 0, tensor.count() * sizeof(float));
        }
    }
}

// A function of the stand-in for libcuda.
template <typename Function>
Function* of_cuda(char const* name)
{
    static void* const library = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
    void* const function = library == nullptr ? nullptr : dlsym(library, name);
    if (function == nullptr)
    {
        unexpected("no stand-in for libcuda");
    }
    return reinterpret_cast<Function*>(function);
}

// Whether calls of this kind fail for a while (FAKE_CUDA_FAIL_FILE).
bool fails_now(char const* what)
{
    return of_cuda<int(char const*)>("fake_cuda_fails")(what) != 0;
}

// Real ones crash or fail where no CUDA context is current on the calling thread.
void expect_context()
{
    if (of_cuda<int()>("fake_cuda_has_context")() == 0)
    {
        unexpected("TensorRT is called on a thread without a CUDA context");
    }
}

struct ContextImpl : apiv::SExecutionContext
{
    std::vector<TensorSpec> tensors;
    std::map<std::string, std::vector<int64_t>> shapes;
    std::map<std::string, void*> addresses;
    int profile = -1;

    TensorSpec const* find(char const* name) const
    {
        for (TensorSpec const& spec : tensors)
        {
            if (spec.name == name)
            {
                return &spec;
            }
        }
        return nullptr;
    }

    bool setOptimizationProfileAsync(int32_t index, cudaStream_t) noexcept override
    {
        profile = index;
        return index == 0;
    }

    bool setInputShape(char const* name, Dims const& dims) noexcept override
    {
        TensorSpec const* spec = find(name);
        if (fails("shape") || spec == nullptr || !spec->is_input || profile != 0)
        {
            say(ILogger::Severity::kERROR, "fake: this shape is not for me");
            return false;
        }
        std::vector<int64_t> const shape = from_dims(dims);
        for (size_t i = 0; i < shape.size(); ++i)
        {
            if (shape.size() != spec->most.size() || shape[i] < spec->least[i] || shape[i] > spec->most[i])
            {
                return false;
            }
        }
        shapes[name] = shape;
        return true;
    }

    Dims getTensorShape(char const* name) const noexcept override
    {
        TensorSpec const* spec = find(name);
        if (spec == nullptr)
        {
            Dims none{};
            none.nbDims = -1;
            return none;
        }
        std::vector<int64_t> dims = spec->dims;
        if (spec->is_input)
        {
            auto const set = shapes.find(name);
            return to_dims(set == shapes.end() ? dims : set->second);
        }
        // Batch, channels and cells of 8×8 pixels of the first input.
        std::vector<int64_t> image;
        for (TensorSpec const& other : tensors)
        {
            auto const set = shapes.find(other.name);
            if (other.is_input && set != shapes.end() && image.empty())
            {
                image = set->second;
            }
        }
        for (size_t i = 0; i < dims.size(); ++i)
        {
            if (dims[i] < 0 && i < image.size())
            {
                dims[i] = i < 2 ? image[i] : image[i] / 8;
            }
        }
        return to_dims(dims);
    }

    bool setTensorAddress(char const* name, void* data) noexcept override
    {
        addresses[name] = data;
        return find(name) != nullptr && data != nullptr;
    }

    bool enqueueV3(cudaStream_t stream) noexcept override
    {
        expect_context();
        auto const image = shapes.find("image");
        bool const is_batch = image != shapes.end() && image->second[0] > 1;
        if (fails("enqueue") || stream == nullptr || fails_now("engine") || fails_now("enqueue")
            || (is_batch && fails_now("batch")))
        {
            say(ILogger::Severity::kERROR, "fake: the device has no time for this");
            return false;
        }
        if (of_cuda<int(void*)>("fake_cuda_is_capturing")(stream) != 0 && fails("capture"))
        {
            of_cuda<void(void*)>("fake_cuda_spoil_capture")(stream);
            say(ILogger::Severity::kERROR, "fake: this network cannot be captured");
            return false;
        }
        if (image != shapes.end())
        {
            trace("run of " + std::to_string(image->second[0]));
        }
        auto* run = new Tensors;
        for (TensorSpec const& spec : tensors)
        {
            Dims const dims = getTensorShape(spec.name.c_str());
            void* const address = addresses[spec.name];
            std::vector<int64_t> const lengths = from_dims(dims);
            if (address == nullptr || dims.nbDims < 0 || std::count(lengths.begin(), lengths.end(), -1) != 0)
            {
                say(ILogger::Severity::kERROR, ("fake: no memory or no shape for " + spec.name).c_str());
                delete run;
                return false;
            }
            (*run)[spec.name] = {spec.is_input, lengths, static_cast<float*>(address)};
        }
        of_cuda<void(void*, void (*)(void*), void*, void (*)(void*))>("fake_cuda_enqueue")(
            stream, [](void* data) { compute(*static_cast<Tensors*>(data)); }, run,
            [](void* data) { delete static_cast<Tensors*>(data); });
        return true;
    }
};
PAIR(Context, IExecutionContext)

struct InspectorImpl : apiv::SEngineInspector
{
    char const* getEngineInformation(LayerInformationFormat) const noexcept override
    {
        return R"({"Layers": [{"Name": "fake layer", "LayerType": "Fake", "Outputs": [{"Format/Datatype": "Row major FP16"}]}]})";
    }
};
PAIR(Inspector, IEngineInspector)

struct EngineImpl : apiv::SCudaEngine
{
    std::vector<TensorSpec> tensors;

    TensorSpec const& find(char const* name) const
    {
        for (TensorSpec const& spec : tensors)
        {
            if (spec.name == name)
            {
                return spec;
            }
        }
        std::abort();
    }

    int32_t getNbIOTensors() const noexcept override
    {
        return static_cast<int32_t>(tensors.size());
    }
    char const* getIOTensorName(int32_t index) const noexcept override
    {
        return tensors[static_cast<size_t>(index)].name.c_str();
    }
    TensorIOMode getTensorIOMode(char const* name) const noexcept override
    {
        return find(name).is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    DataType getTensorDataType(char const*) const noexcept override
    {
        return DataType::kFLOAT;
    }
    Dims getTensorShape(char const* name) const noexcept override
    {
        return to_dims(find(name).dims);
    }
    Dims getProfileShape(char const* name, int32_t, OptProfileSelector select) const noexcept override
    {
        return to_dims(select == OptProfileSelector::kMIN ? find(name).least : find(name).most);
    }
    int64_t getDeviceMemorySizeV2() const noexcept override
    {
        return 12345678;
    }
    IEngineInspector* createEngineInspector() const noexcept override
    {
        return new Inspector(new InspectorImpl);
    }
    IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept override
    {
        expect_context();
        if (fails("context"))
        {
            say(ILogger::Severity::kERROR, "fake: out of memory");
            return nullptr;
        }
        auto* impl = new ContextImpl;
        impl->tensors = tensors;
        return new Context(impl);
    }
};
PAIR(Engine, ICudaEngine)

struct RuntimeImpl : apiv::SRuntime
{
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override
    {
        std::string const text{static_cast<char const*>(blob), size};
        if (fails("load") || text.compare(0, sizeof kMagic - 1, kMagic) != 0)
        {
            // With their beginning, and some time before the call ends: whose words they are shows when several threads fail.
            std::string const begin = text.substr(0, std::min(text.find('\n'), size_t{20}));
            say(ILogger::Severity::kERROR, ("fake: these bytes are no engine of mine: " + begin).c_str());
            usleep(2000);
            return nullptr;
        }
        auto* impl = new EngineImpl;
        impl->tensors = decode(text);
        return new Engine(impl);
    }
};
PAIR(Runtime, IRuntime)

struct NetworkImpl : apiv::SNetworkDefinition
{
    std::vector<TensorSpec> tensors;
};
PAIR(Network, INetworkDefinition)

struct ProfileImpl : apiv::SOptimizationProfile
{
    std::map<std::string, std::vector<int64_t>> least, best, most;

    bool setDimensions(char const* name, OptProfileSelector select, Dims const& dims) noexcept override
    {
        if (select == OptProfileSelector::kMIN)
        {
            least[name] = from_dims(dims);
        }
        if (select == OptProfileSelector::kOPT)
        {
            best[name] = from_dims(dims);
        }
        if (select == OptProfileSelector::kMAX)
        {
            most[name] = from_dims(dims);
        }
        return true;
    }
};
PAIR(Profile, IOptimizationProfile)

struct TimingsImpl : apiv::STimingCache
{
    std::string bytes;
    IHostMemory* serialize() const noexcept override
    {
        std::string const timed = variable("FAKE_TENSORRT_TIMED");
        return memory(bytes + (timed.empty() ? "timed" : timed) + ";");
    }
    bool combine(ITimingCache const& other, bool) noexcept override;
};
PAIR(Timings, ITimingCache)

// What both have is there once, as with real ones.
bool TimingsImpl::combine(ITimingCache const& other, bool) noexcept
{
    std::string const& others = static_cast<Timings const&>(other).impl_->bytes;
    for (size_t at = 0; at < others.size();)
    {
        size_t const end = others.find(';', at);
        std::string const entry = others.substr(at, end == std::string::npos ? end : end - at + 1);
        bytes += bytes.find(entry) == std::string::npos ? entry : "";
        at += entry.size();
    }
    trace("timings combined");
    return true;
}

struct ConfigImpl : apiv::SBuilderConfig
{
    IOptimizationProfile const* profile = nullptr;
    IProgressMonitor* monitor = nullptr;

    void setFlag(BuilderFlag) noexcept override {}
    void clearFlag(BuilderFlag flag) noexcept override
    {
        trace("clear flag " + std::to_string(static_cast<int>(flag)));
    }
    void setProfilingVerbosity(ProfilingVerbosity) noexcept override {}
    void setMemoryPoolLimit(MemoryPoolType, std::size_t bytes) noexcept override
    {
        trace("workspace " + std::to_string(bytes));
    }
    void setHardwareCompatibilityLevel(HardwareCompatibilityLevel level) noexcept override
    {
        trace("hardware compatible " + std::to_string(static_cast<int>(level)));
    }
    int32_t addOptimizationProfile(IOptimizationProfile const* added) noexcept override
    {
        profile = added;
        return 0;
    }
    nvinfer1::ITimingCache* createTimingCache(void const* blob, std::size_t size) const noexcept override
    {
        auto* impl = new TimingsImpl;
        impl->bytes.assign(static_cast<char const*>(blob), size);
        trace("timings " + impl->bytes);
        return new Timings(impl);
    }
    bool setTimingCache(ITimingCache const&, bool) noexcept override
    {
        return true;
    }
    void setProgressMonitor(IProgressMonitor* to) noexcept override
    {
        monitor = to;
    }
};
PAIR(Config, IBuilderConfig)

// Least, best and largest have the input's axes, in this order, and what does not vary is what the input has.
bool is_profile_of(TensorSpec const& spec)
{
    size_t const axes = spec.dims.size();
    bool fits = spec.least.size() == axes && spec.best.size() == axes && spec.most.size() == axes;
    for (size_t i = 0; fits && i < axes; ++i)
    {
        fits = spec.least[i] >= 0 && spec.least[i] <= spec.best[i] && spec.best[i] <= spec.most[i]
            && (spec.dims[i] < 0 || (spec.least[i] == spec.dims[i] && spec.most[i] == spec.dims[i]));
    }
    return fits;
}

struct BuilderImpl : apiv::SBuilder
{
    std::unique_ptr<Profile> profile;

    nvinfer1::INetworkDefinition* createNetworkV2(NetworkDefinitionCreationFlags) noexcept override
    {
        return new Network(new NetworkImpl);
    }
    nvinfer1::IBuilderConfig* createBuilderConfig() noexcept override
    {
        return new Config(new ConfigImpl);
    }
    IOptimizationProfile* createOptimizationProfile() noexcept override
    {
        profile = std::make_unique<Profile>(new ProfileImpl);
        return profile.get();
    }
    nvinfer1::IHostMemory* buildSerializedNetwork(INetworkDefinition& network, IBuilderConfig& config) noexcept override
    {
        ConfigImpl const& configured = *static_cast<Config&>(config).impl_;
        std::vector<TensorSpec> tensors = static_cast<Network&>(network).impl_->tensors;
        say(ILogger::Severity::kINFO, "fake: building");
        long const slow = std::strtol(variable("FAKE_TENSORRT_SLOW").c_str(), nullptr, 10);
        configured.monitor->phaseStart("Fake tactics", nullptr, 10);
        for (int step = 0; step < 10; ++step)
        {
            usleep(static_cast<useconds_t>(slow * 100));
            if (!configured.monitor->stepComplete("Fake tactics", step))
            {
                trace("stopped");
                return nullptr;
            }
        }
        configured.monitor->phaseFinish("Fake tactics");
        if (fails("build"))
        {
            say(ILogger::Severity::kERROR, "fake: insufficient workspace");
            return nullptr;
        }
        trace("built");
        for (TensorSpec& spec : tensors)
        {
            spec.least = spec.most = spec.dims;
            if (configured.profile != nullptr && profile->impl_->most.count(spec.name) != 0)
            {
                spec.least = profile->impl_->least[spec.name];
                spec.best = profile->impl_->best[spec.name];
                spec.most = profile->impl_->most[spec.name];
                trace("profile " + join(spec.least) + " to " + join(spec.most) + " for " + join(spec.best));
                if (!is_profile_of(spec))
                {
                    say(ILogger::Severity::kERROR, ("fake: the profile does not fit the input " + spec.name).c_str());
                    return nullptr;
                }
            }
            else if (spec.is_input)
            {
                for (int64_t length : spec.dims)
                {
                    if (length < 0)
                    {
                        say(ILogger::Severity::kERROR, "fake: an input varies and has no profile");
                        return nullptr;
                    }
                }
            }
        }
        return memory(encode(tensors));
    }
};
PAIR(Builder, IBuilder)

struct Fault : nvonnxparser::SParserError
{
    char const* desc() const override
    {
        return "fake: this operator is unknown";
    }
    int node() const override
    {
        return 7;
    }
};

struct Parser : nvonnxparser::SParser
{
    Network* network;
    Fault fault;

    explicit Parser(void* to) : network(static_cast<Network*>(static_cast<INetworkDefinition*>(to)))
    {
        trace("+IParser");
    }
    ~Parser() noexcept override
    {
        trace("-IParser");
    }
    bool parse(void const* onnx, size_t length, char const*) noexcept override
    {
        network->impl_->tensors = tensors_of(onnx, length);
        return !fails("parse") && !network->impl_->tensors.empty();
    }
    int getNbErrors() const noexcept override
    {
        return 1;
    }
    nvonnxparser::IParserError const* getError(int) const noexcept override
    {
        return &fault;
    }
};

}  // namespace

extern "C" {

int32_t getInferLibVersion() noexcept
{
    std::string const version = variable("FAKE_TENSORRT_VERSION");
    return version.empty() ? NV_TENSORRT_VERSION : static_cast<int32_t>(std::strtol(version.c_str(), nullptr, 10));
}

void* createInferRuntime_INTERNAL(void* logger, int32_t) noexcept
{
    the_logger = static_cast<ILogger*>(logger);
    return static_cast<IRuntime*>(new Runtime(new RuntimeImpl));
}

void* createInferBuilder_INTERNAL(void* logger, int32_t) noexcept
{
    the_logger = static_cast<ILogger*>(logger);
    return static_cast<IBuilder*>(new Builder(new BuilderImpl));
}

void* createNvOnnxParser_INTERNAL(void* network, void*, int) noexcept
{
    return static_cast<nvonnxparser::IParser*>(new Parser(network));
}
}

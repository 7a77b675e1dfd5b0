// Compiled against the TensorRT headers of the machine (build.rs finds them). TensorRT's public classes are inline functions
// over the library's virtual tables, so nothing here is linked: the library's three entry points come as pointers.
#include "shim.h"

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

// Set by the test that compiles with headers of TensorRT-RTX, whose own numbers are others.
#ifndef HSG_TRT_MAJOR
#define HSG_TRT_MAJOR NV_TENSORRT_MAJOR
#endif
#if HSG_TRT_MAJOR < 8 || (HSG_TRT_MAJOR == 8 && NV_TENSORRT_MINOR < 6)
#error "TensorRT 8.6 or newer is needed; let TENSORRT_INCLUDE_DIR name the folder of its NvInfer.h"
#endif
// Between weak and strong typing: what is below would build fp32 where fp16 is asked for. No JetPack has it.
#if HSG_TRT_MAJOR == 9
#error "TensorRT 9 is not known to hsg; 8.6, 10 and 11 are"
#endif

namespace nv = nvinfer1;

namespace {

void tell(char* error, char const* words) noexcept
{
    std::snprintf(error, HSG_TRT_ERROR_BYTES, "%s", words);
}

// Runs `work` and turns whatever it throws into words.
template <typename Work>
int32_t guarded(char* error, Work work) noexcept
{
    try
    {
        return work();
    }
    catch (std::exception const& exception)
    {
        tell(error, exception.what());
    }
    catch (...)
    {
        tell(error, "an exception of unknown kind");
    }
    return 1;
}

template <typename Work>
void* guarded_pointer(char* error, Work work) noexcept
{
    void* result = nullptr;
    guarded(error, [&] {
        result = work();
        return 0;
    });
    return result;
}

class Logger final : public nv::ILogger
{
public:
    hsg_trt_log to = nullptr;

    void log(Severity severity, nv::AsciiChar const* text) noexcept override
    {
        if (to != nullptr && text != nullptr)
        {
            to(static_cast<int32_t>(severity), text);
        }
    }
};

// One for the process, never destroyed: TensorRT keeps the address in everything it makes.
Logger& logger() noexcept
{
    static Logger* one = new Logger;
    return *one;
}

void from_dims(nv::Dims const& from, hsg_trt_dims* to)
{
    to->count = from.nbDims;
    for (int32_t i = 0; i < HSG_TRT_MAX_DIMS; ++i)
    {
        to->lengths[i] = i < from.nbDims ? static_cast<int64_t>(from.d[i]) : 0;
    }
}

nv::Dims to_dims(hsg_trt_dims const& from)
{
    nv::Dims dims{};
    dims.nbDims = from.count;
    for (int32_t i = 0; i < from.count && i < HSG_TRT_MAX_DIMS; ++i)
    {
        dims.d[i] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(from.lengths[i]);
    }
    return dims;
}

using Create = void* (*) (void* logger, int32_t version);
using CreateParser = void* (*) (void* network, void* logger, int version);

#if HSG_TRT_MAJOR >= 10
class Progress final : public nv::IProgressMonitor
{
public:
    Progress(hsg_trt_progress call, void* to) : call_(call), to_(to) {}

    void phaseStart(char const* phase, char const* parent, int32_t steps) noexcept override
    {
        call_(to_, phase, parent == nullptr ? "" : parent, steps > 0 ? steps : 1, 0);
    }

    bool stepComplete(char const* phase, int32_t step) noexcept override
    {
        return call_(to_, phase, "", 0, step) != 0;
    }

    void phaseFinish(char const* phase) noexcept override
    {
        call_(to_, phase, "", -1, 0);
    }

private:
    hsg_trt_progress call_;
    void* to_;
};
#endif

#if HSG_TRT_MAJOR == 8
// 8.6 is weakly typed: with kFP16 it may compute in fp16 what the file has in fp32 on purpose (statistics, softmax). It is
// asked not to.
void keep_single_precision(nv::INetworkDefinition& network)
{
    for (int32_t i = 0; i < network.getNbLayers(); ++i)
    {
        nv::ILayer* layer = network.getLayer(i);
        nv::LayerType const type = layer->getType();
        bool const computes = type == nv::LayerType::kSOFTMAX || type == nv::LayerType::kREDUCE
            || type == nv::LayerType::kELEMENTWISE || type == nv::LayerType::kUNARY
            || type == nv::LayerType::kNORMALIZATION;
        if (computes && layer->getNbOutputs() > 0 && layer->getOutput(0)->getType() == nv::DataType::kFLOAT)
        {
            layer->setPrecision(nv::DataType::kFLOAT);
            layer->setOutputType(0, nv::DataType::kFLOAT);
        }
    }
}
#endif

void set_flag(nv::IBuilderConfig& config, nv::BuilderFlag flag, bool on)
{
    if (on)
    {
        config.setFlag(flag);
    }
    else
    {
        config.clearFlag(flag);
    }
}

int32_t build(void* create_builder, void* create_parser, hsg_trt_build const& spec, char* error)
{
    std::unique_ptr<nv::IBuilder> builder{
        static_cast<nv::IBuilder*>(reinterpret_cast<Create>(create_builder)(&logger(), NV_TENSORRT_VERSION))};
    if (builder == nullptr)
    {
        tell(error, "TensorRT makes no builder");
        return 1;
    }
#if HSG_TRT_MAJOR >= 11
    nv::NetworkDefinitionCreationFlags const flags = 0;  // all are strongly typed
#elif HSG_TRT_MAJOR == 10
    nv::NetworkDefinitionCreationFlags const flags
        = 1U << static_cast<uint32_t>(nv::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
    nv::NetworkDefinitionCreationFlags const flags
        = 1U << static_cast<uint32_t>(nv::NetworkDefinitionCreationFlag::kEXPLICIT_BATCH);
#endif
    // The configuration refers to both, so they end after it.
    std::unique_ptr<nv::ITimingCache> cache;
    std::unique_ptr<nv::ITimingCache> newer;
#if HSG_TRT_MAJOR >= 10
    Progress progress{spec.progress, spec.to};
#endif
    std::unique_ptr<nv::INetworkDefinition> network{builder->createNetworkV2(flags)};
    std::unique_ptr<nv::IBuilderConfig> config{builder->createBuilderConfig()};
    if (network == nullptr || config == nullptr)
    {
        tell(error, "TensorRT makes no network or no configuration");
        return 1;
    }
    std::unique_ptr<nvonnxparser::IParser> parser{static_cast<nvonnxparser::IParser*>(
        reinterpret_cast<CreateParser>(create_parser)(network.get(), &logger(), NV_ONNX_PARSER_VERSION))};
    if (parser == nullptr)
    {
        tell(error, "TensorRT makes no ONNX parser");
        return 1;
    }
    if (!parser->parse(spec.onnx, spec.onnx_bytes))
    {
        std::string words = "the ONNX parser does not take the network";
        for (int32_t i = 0; i < parser->getNbErrors(); ++i)
        {
            nvonnxparser::IParserError const* fault = parser->getError(i);
            words += (i == 0 ? ": node " : ", node ") + std::to_string(fault->node()) + ": " + fault->desc();
        }
        tell(error, words.c_str());
        return 1;
    }
    // Without it fp32 is not fp32 on Ampere and later.
    set_flag(*config, nv::BuilderFlag::kTF32, false);
#if HSG_TRT_MAJOR == 8
    set_flag(*config, nv::BuilderFlag::kFP16, spec.fp16 != 0);
    set_flag(*config, nv::BuilderFlag::kINT8, spec.int8 != 0);
    if (spec.fp16 != 0)
    {
        set_flag(*config, nv::BuilderFlag::kPREFER_PRECISION_CONSTRAINTS, true);
        keep_single_precision(*network);
    }
    // Several cameras share one engine and its only profile.
    config->setPreviewFeature(nv::PreviewFeature::kPROFILE_SHARING_0806, true);
#endif
    config->setProfilingVerbosity(nv::ProfilingVerbosity::kDETAILED);
    if (spec.workspace_bytes > 0)
    {
        config->setMemoryPoolLimit(nv::MemoryPoolType::kWORKSPACE, static_cast<size_t>(spec.workspace_bytes));
    }
    if (spec.hardware_compatible != 0)
    {
        config->setHardwareCompatibilityLevel(nv::HardwareCompatibilityLevel::kAMPERE_PLUS);
    }
    if (spec.num_ranges > 0)
    {
        nv::IOptimizationProfile* profile = builder->createOptimizationProfile();  // owned by the builder
        if (profile == nullptr)
        {
            tell(error, "TensorRT makes no optimisation profile");
            return 1;
        }
        for (size_t i = 0; i < spec.num_ranges; ++i)
        {
            hsg_trt_range const& range = spec.ranges[i];
            bool const set = profile->setDimensions(range.input, nv::OptProfileSelector::kMIN, to_dims(range.least))
                && profile->setDimensions(range.input, nv::OptProfileSelector::kOPT, to_dims(range.best))
                && profile->setDimensions(range.input, nv::OptProfileSelector::kMAX, to_dims(range.most));
            if (!set)
            {
                tell(error, (std::string("TensorRT does not take the shapes of the input ") + range.input).c_str());
                return 1;
            }
        }
        if (config->addOptimizationProfile(profile) < 0)
        {
            tell(error, "TensorRT does not take the optimisation profile");
            return 1;
        }
    }
    // With nothing in it, too: then it is filled.
    cache.reset(
        config->createTimingCache(spec.timing_cache, spec.timing_cache == nullptr ? 0 : spec.timing_cache_bytes));
    if (cache == nullptr)
    {
        cache.reset(config->createTimingCache(nullptr, 0));  // a file that is none: TensorRT's log says so
    }
    if (cache != nullptr && !config->setTimingCache(*cache, false))
    {
        logger().log(nv::ILogger::Severity::kWARNING,
            "the timing cache is of another device or version: it is begun anew");
        cache.reset(config->createTimingCache(nullptr, 0));
        if (cache != nullptr)
        {
            config->setTimingCache(*cache, false);
        }
    }
#if HSG_TRT_MAJOR >= 10
    config->setProgressMonitor(&progress);
#endif
    std::unique_ptr<nv::IHostMemory> engine{builder->buildSerializedNetwork(*network, *config)};
    if (engine == nullptr)
    {
        tell(error, "TensorRT builds no engine");
        return 1;
    }
    if (cache != nullptr)
    {
        size_t length = 0;
        void const* const bytes = spec.newer_timings(spec.to, &length);
        if (bytes != nullptr && length > 0)
        {
            newer.reset(config->createTimingCache(bytes, length));
            // Of another version or device: as at the beginning, they make way.
            if (newer == nullptr || !cache->combine(*newer, false))
            {
                logger().log(nv::ILogger::Severity::kWARNING,
                    "the timing cache was changed meanwhile, to one of another device or version: it is written anew");
            }
        }
        std::unique_ptr<nv::IHostMemory> timings{cache->serialize()};
        if (timings != nullptr)
        {
            spec.sink(spec.to, 1, timings->data(), timings->size());
        }
    }
    spec.sink(spec.to, 0, engine->data(), engine->size());
    return 0;
}

nv::ICudaEngine& engine_of(void* engine)
{
    return *static_cast<nv::ICudaEngine*>(engine);
}

nv::IExecutionContext& context_of(void* context)
{
    return *static_cast<nv::IExecutionContext*>(context);
}

}  // namespace

extern "C" {

void hsg_trt_header_version(int32_t* major, int32_t* minor, int32_t* patch)
{
    *major = HSG_TRT_MAJOR;
    *minor = NV_TENSORRT_MINOR;
    *patch = NV_TENSORRT_PATCH;
}

void hsg_trt_set_log(hsg_trt_log log)
{
    logger().to = log;
}

void* hsg_trt_runtime_new(void* create, char* error)
{
    return guarded_pointer(error, [&]() -> void* {
        auto* runtime = static_cast<nv::IRuntime*>(reinterpret_cast<Create>(create)(&logger(), NV_TENSORRT_VERSION));
        if (runtime == nullptr)
        {
            tell(error, "TensorRT makes no runtime");
        }
        return runtime;
    });
}

void hsg_trt_runtime_delete(void* runtime)
{
    delete static_cast<nv::IRuntime*>(runtime);
}

void* hsg_trt_engine_new(void* runtime, const void* bytes, size_t length, char* error)
{
    return guarded_pointer(error, [&]() -> void* {
        nv::ICudaEngine* engine = static_cast<nv::IRuntime*>(runtime)->deserializeCudaEngine(bytes, length);
        if (engine == nullptr)
        {
            tell(error, "TensorRT does not load the engine");
        }
        return engine;
    });
}

void hsg_trt_engine_delete(void* engine)
{
    delete static_cast<nv::ICudaEngine*>(engine);
}

int32_t hsg_trt_engine_num_tensors(void* engine)
{
    return engine_of(engine).getNbIOTensors();
}

int32_t hsg_trt_engine_tensor(void* engine, int32_t index, hsg_trt_tensor* tensor, char* error)
{
    return guarded(error, [&] {
        nv::ICudaEngine& it = engine_of(engine);
        char const* name = it.getIOTensorName(index);
        if (name == nullptr)
        {
            tell(error, "TensorRT does not name a tensor");
            return 1;
        }
        tensor->name = name;
        tensor->is_input = it.getTensorIOMode(name) == nv::TensorIOMode::kINPUT ? 1 : 0;
        tensor->is_float = it.getTensorDataType(name) == nv::DataType::kFLOAT ? 1 : 0;
        from_dims(it.getTensorShape(name), &tensor->dims);
        tensor->least = tensor->dims;
        tensor->most = tensor->dims;
        if (tensor->is_input != 0)
        {
            from_dims(it.getProfileShape(name, 0, nv::OptProfileSelector::kMIN), &tensor->least);
            from_dims(it.getProfileShape(name, 0, nv::OptProfileSelector::kMAX), &tensor->most);
        }
        return 0;
    });
}

int64_t hsg_trt_engine_activation_bytes(void* engine)
{
#if HSG_TRT_MAJOR > 10 || (HSG_TRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 1)
    return engine_of(engine).getDeviceMemorySizeV2();
#else
    return static_cast<int64_t>(engine_of(engine).getDeviceMemorySize());
#endif
}

int32_t hsg_trt_engine_layers(void* engine, hsg_trt_sink sink, void* to, char* error)
{
    return guarded(error, [&] {
        std::unique_ptr<nv::IEngineInspector> inspector{engine_of(engine).createEngineInspector()};
        char const* text = inspector == nullptr ? nullptr : inspector->getEngineInformation(nv::LayerInformationFormat::kJSON);
        if (text == nullptr)
        {
            tell(error, "TensorRT does not describe the engine");
            return 1;
        }
        sink(to, 2, text, std::strlen(text));
        return 0;
    });
}

void* hsg_trt_context_new(void* engine, void* stream, char* error)
{
    return guarded_pointer(error, [&]() -> void* {
        std::unique_ptr<nv::IExecutionContext> context{engine_of(engine).createExecutionContext()};
        if (context == nullptr)
        {
            tell(error, "TensorRT makes no execution context; is the GPU's memory full?");
            return nullptr;
        }
        // The first context has it already; every further one must be told.
        if (!context->setOptimizationProfileAsync(0, static_cast<cudaStream_t>(stream)))
        {
            tell(error, "TensorRT does not take the optimisation profile for this context");
            return nullptr;
        }
        return context.release();
    });
}

void hsg_trt_context_delete(void* context)
{
    delete static_cast<nv::IExecutionContext*>(context);
}

int32_t hsg_trt_context_set_shape(void* context, const char* input, const hsg_trt_dims* dims, char* error)
{
    return guarded(error, [&] {
        if (context_of(context).setInputShape(input, to_dims(*dims)))
        {
            return 0;
        }
        tell(error, "TensorRT does not take the shape");
        return 1;
    });
}

int32_t hsg_trt_context_shape(void* context, const char* tensor, hsg_trt_dims* dims, char* error)
{
    return guarded(error, [&] {
        from_dims(context_of(context).getTensorShape(tensor), dims);
        if (dims->count >= 0)
        {
            return 0;
        }
        tell(error, "TensorRT does not know the shape");
        return 1;
    });
}

int32_t hsg_trt_context_set_address(void* context, const char* tensor, void* address, char* error)
{
    return guarded(error, [&] {
        if (context_of(context).setTensorAddress(tensor, address))
        {
            return 0;
        }
        tell(error, "TensorRT does not take the tensor's memory");
        return 1;
    });
}

int32_t hsg_trt_context_enqueue(void* context, void* stream, char* error)
{
    return guarded(error, [&] {
        if (context_of(context).enqueueV3(static_cast<cudaStream_t>(stream)))
        {
            return 0;
        }
        tell(error, "TensorRT does not start the network");
        return 1;
    });
}

int32_t hsg_trt_build_engine(void* create_builder, void* create_parser, const hsg_trt_build* spec, char* error)
{
    return guarded(error, [&] { return build(create_builder, create_parser, *spec, error); });
}
}

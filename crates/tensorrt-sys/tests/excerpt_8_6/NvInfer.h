// An excerpt, not TensorRT's header: what the shim uses of TensorRT 8.6, declared again in our own words so that a compiler sees
// the parts of shim.cpp that are for 8.6. Names, parameters, results, const and noexcept are as in the headers of 8.6
// (crates/tensorrt-sys/README.md says which were read). Classes have neither all functions nor the order of the real ones, and
// no function has a body: it compiles, and does not link.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>

#define NV_TENSORRT_MAJOR 8
#define NV_TENSORRT_MINOR 6
#define NV_TENSORRT_PATCH 1
#define NV_TENSORRT_VERSION nvinfer1::kNV_TENSORRT_VERSION_IMPL

namespace nvinfer1
{

static constexpr int32_t kNV_TENSORRT_VERSION_IMPL
    = NV_TENSORRT_MAJOR * 1000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;

using AsciiChar = char;
using BuilderFlags = uint32_t;
using NetworkDefinitionCreationFlags = uint32_t;

// 32 bits here; Dims64 from version 10 on.
class Dims32
{
public:
    static constexpr int32_t MAX_DIMS{8};
    int32_t nbDims;
    int32_t d[MAX_DIMS];
};
using Dims = Dims32;

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5, kFP8 = 6 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

// Values are given where they were read; of the others only that the name exists matters.
enum class LayerType : int32_t { kELEMENTWISE, kREDUCE, kSOFTMAX, kUNARY, kNORMALIZATION };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class BuilderFlag : int32_t { kFP16 = 0, kINT8 = 1, kTF32, kPREFER_PRECISION_CONSTRAINTS };
enum class NetworkDefinitionCreationFlag : int32_t { kEXPLICIT_BATCH = 0, kEXPLICIT_PRECISION = 1 };
enum class MemoryPoolType : int32_t { kWORKSPACE = 0 };
enum class ProfilingVerbosity : int32_t { kDETAILED };
enum class PreviewFeature : int32_t { kPROFILE_SHARING_0806 };
enum class HardwareCompatibilityLevel : int32_t { kNONE = 0, kAMPERE_PLUS = 1 };
enum class LayerInformationFormat : int32_t { kONELINE = 0, kJSON = 1 };

class ILogger
{
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
    ILogger() = default;
    virtual ~ILogger() = default;
};

class INoCopy
{
protected:
    INoCopy() = default;
    virtual ~INoCopy() = default;
    INoCopy(INoCopy const&) = delete;
    INoCopy& operator=(INoCopy const&) = delete;
};

class IHostMemory : public INoCopy
{
public:
    virtual ~IHostMemory() noexcept = default;
    void* data() const noexcept;
    std::size_t size() const noexcept;
};

class ITensor : public INoCopy
{
public:
    DataType getType() const noexcept;

protected:
    virtual ~ITensor() noexcept = default;
};

class ILayer : public INoCopy
{
public:
    LayerType getType() const noexcept;
    int32_t getNbOutputs() const noexcept;
    ITensor* getOutput(int32_t index) const noexcept;
    void setPrecision(DataType dataType) noexcept;
    void setOutputType(int32_t index, DataType dataType) noexcept;

protected:
    virtual ~ILayer() noexcept = default;
};

class INetworkDefinition : public INoCopy
{
public:
    virtual ~INetworkDefinition() noexcept = default;
    int32_t getNbLayers() const noexcept;
    ILayer* getLayer(int32_t index) const noexcept;
};

class IOptimizationProfile : public INoCopy
{
public:
    bool setDimensions(char const* inputName, OptProfileSelector select, Dims dims) noexcept;

protected:
    virtual ~IOptimizationProfile() noexcept = default;
};

class ITimingCache : public INoCopy
{
public:
    virtual ~ITimingCache() noexcept = default;
    IHostMemory* serialize() const noexcept;
    bool combine(ITimingCache const& inputCache, bool ignoreMismatch) noexcept;
};

class IBuilderConfig : public INoCopy
{
public:
    virtual ~IBuilderConfig() noexcept = default;
    void setFlag(BuilderFlag builderFlag) noexcept;
    void clearFlag(BuilderFlag builderFlag) noexcept;
    void setPreviewFeature(PreviewFeature feature, bool enable) noexcept;
    void setProfilingVerbosity(ProfilingVerbosity verbosity) noexcept;
    void setMemoryPoolLimit(MemoryPoolType pool, std::size_t poolSize) noexcept;
    void setHardwareCompatibilityLevel(HardwareCompatibilityLevel hardwareCompatibilityLevel) noexcept;
    int32_t addOptimizationProfile(IOptimizationProfile const* profile) noexcept;
    ITimingCache* createTimingCache(void const* blob, std::size_t size) const noexcept;
    bool setTimingCache(ITimingCache const& cache, bool ignoreMismatch) noexcept;
};

class IBuilder : public INoCopy
{
public:
    virtual ~IBuilder() noexcept = default;
    INetworkDefinition* createNetworkV2(NetworkDefinitionCreationFlags flags) noexcept;
    IBuilderConfig* createBuilderConfig() noexcept;
    IOptimizationProfile* createOptimizationProfile() noexcept;
    IHostMemory* buildSerializedNetwork(INetworkDefinition& network, IBuilderConfig& config) noexcept;
};

class IEngineInspector : public INoCopy
{
public:
    virtual ~IEngineInspector() noexcept = default;
    char const* getEngineInformation(LayerInformationFormat format) const noexcept;
};

class IExecutionContext : public INoCopy
{
public:
    virtual ~IExecutionContext() noexcept = default;
    bool setOptimizationProfileAsync(int32_t profileIndex, cudaStream_t stream) noexcept;
    bool setInputShape(char const* tensorName, Dims const& dims) noexcept;
    Dims getTensorShape(char const* tensorName) const noexcept;
    bool setTensorAddress(char const* tensorName, void* data) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;
};

class ICudaEngine : public INoCopy
{
public:
    virtual ~ICudaEngine() noexcept = default;
    int32_t getNbIOTensors() const noexcept;
    char const* getIOTensorName(int32_t index) const noexcept;
    TensorIOMode getTensorIOMode(char const* tensorName) const noexcept;
    DataType getTensorDataType(char const* tensorName) const noexcept;
    Dims getTensorShape(char const* tensorName) const noexcept;
    Dims getProfileShape(char const* tensorName, int32_t profileIndex, OptProfileSelector select) const noexcept;
    size_t getDeviceMemorySize() const noexcept;
    IEngineInspector* createEngineInspector() const noexcept;
    IExecutionContext* createExecutionContext() noexcept;
};

class IRuntime : public INoCopy
{
public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;
};

} // namespace nvinfer1

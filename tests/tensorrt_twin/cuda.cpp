// A stand-in for libcuda with one device, whose memory is the host's: as much of the driver as hsg calls.
//
// Kernels run: the committed PTX must have them by name, and the same sources, compiled for the host (tests/kernel_twin), are
// what computes. Work on a stream is only noted down, and done when somebody waits for it: a result that is looked at too
// early is not there, and page-locked memory that goes while a copy to it is outstanding ends the process. A captured graph is
// such a list of work, and runs as often as it is launched.
//
// FAKE_CUDA_NAME   the device's name
// FAKE_CUDA_FREE   bytes of free memory (4 GiB)
// FAKE_CUDA_INTEGRATED  set: the device shares the host's memory
// FAKE_CUDA_FAIL   what goes wrong: alloc (its memory is full), copy (it is lost: waiting fails), launch (a kernel does not
//                  start), capture (a graph cannot be made), graph (it does not start), busy (a kernel does not start, and
//                  nothing is lost), pinned (no page-locked memory), engine (TensorRT's runs do not start, and waiting says that it is lost)
// FAKE_CUDA_FAIL_FILE  a file that says the same, for as long as it does
// FAKE_CUDA_WAIT_MILLIS  how long waiting for an event takes at least, as if the device were slow
// FAKE_CUDA_TRACE  a file that gets a line for each graph captured and launched, and for what is waited for asleep
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

extern "C" int hsg_twin_launch(const char* name, uint32_t grid_x, uint32_t grid_y, uint32_t num_threads, int backwards,
                               void** arguments);
extern "C" int hsg_twin_num_arguments(const char* name);

namespace {

enum {
    FULL = 2,
    ABSENT = 801,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    OUT_OF_RESOURCES = 701,
    LOST = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    INTEGRATED = 18,
    MAJOR = 75,
    MINOR = 76
};

struct Work {
    std::function<void()> run;
    // Page-locked memory that it reads or writes.
    const void* host = nullptr;
    // Which record of an event this is; 0: none.
    uint64_t mark = 0;
};

struct Stream {
    std::vector<Work> waiting;
    std::vector<Work> captured;
    bool is_capturing = false, is_spoilt = false;
    int error = 0;
};

// Stands for the work of `stream` before the mark.
struct Event {
    Stream* stream = nullptr;
    uint64_t mark = 0;
};

struct Graph {
    std::vector<Work> work;
};

struct Module {
    std::string text;
};

// Calls come from several threads; a context is used by one at a time here.
std::recursive_mutex one_call;
using Guard = std::lock_guard<std::recursive_mutex>;
std::set<Stream*> streams;
std::map<const char*, size_t> page_locked;
// Every thread has its own, and none before it has set one.
thread_local void* current = nullptr;
// A capture is spoilt by what its own thread does (CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).
thread_local Stream* capturing = nullptr;
int num_launched = 0;

// Whether calls of this kind fail at present.
bool fails(const char* what)
{
    const char* value = std::getenv("FAKE_CUDA_FAIL");
    char text[32] = {};
    if (const char* path = std::getenv("FAKE_CUDA_FAIL_FILE"))
        if (FILE* file = std::fopen(path, "r")) {
            text[std::fread(text, 1, sizeof text - 1, file)] = 0;
            std::fclose(file);
            value = text;
        }
    return value != nullptr && std::strcmp(value, what) == 0;
}

void trace(const char* line)
{
    const char* path = std::getenv("FAKE_CUDA_TRACE");
    if (path == nullptr)
        return;
    if (FILE* file = std::fopen(path, "a")) {
        std::fprintf(file, "%s\n", line);
        std::fclose(file);
    }
}

void add(Stream* stream, Work work) { (stream->is_capturing ? stream->captured : stream->waiting).push_back(std::move(work)); }

void finish(Stream* stream)
{
    std::vector<Work> waiting;
    waiting.swap(stream->waiting);
    for (const Work& work : waiting)
        work.run();
}

// What may not be done between the begin and the end of a capture spoils it.
bool spoils_capture()
{
    if (capturing != nullptr)
        capturing->is_spoilt = true;
    return capturing != nullptr;
}

// Does the work of a stream up to a mark and no further: what was started after it is not waited for.
void finish_to(Stream* stream, uint64_t mark)
{
    if (stream == nullptr || streams.count(stream) == 0)
        return;
    size_t end = 0;
    for (size_t i = 0; i < stream->waiting.size(); i++)
        if (stream->waiting[i].mark == mark)
            end = i + 1;
    std::vector<Work> first(stream->waiting.begin(), stream->waiting.begin() + static_cast<long>(end));
    stream->waiting.erase(stream->waiting.begin(), stream->waiting.begin() + static_cast<long>(end));
    for (const Work& work : first)
        work.run();
}

// As the driver answers where no context is current on the calling thread.
#define NEEDS_CONTEXT if (current == nullptr) return INVALID_CONTEXT;

bool is_page_locked(const void* at)
{
    auto next = page_locked.upper_bound(static_cast<const char*>(at));
    if (next == page_locked.begin())
        return false;
    --next;
    return static_cast<const char*>(at) < next->first + next->second;
}

} // namespace

extern "C" {

// For the stand-in of TensorRT, which works on the same streams. `free` is called when nobody needs `data` any more.
void fake_cuda_enqueue(void* stream, void (*run)(void*), void* data, void (*free)(void*))
{
    Guard guard(one_call);
    std::shared_ptr<void> shared(data, free);
    add(static_cast<Stream*>(stream), {[=] { run(shared.get()); }});
}
int fake_cuda_is_capturing(void* stream) { return static_cast<Stream*>(stream)->is_capturing; }
int fake_cuda_fails(const char* what) { return fails(what); }
int fake_cuda_has_context() { return current != nullptr; }
void fake_cuda_spoil_capture(void* stream) { static_cast<Stream*>(stream)->is_spoilt = true; }

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { *version = 12060; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int number) { *device = number; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int)
{
    *value = attribute == MAJOR        ? 8
             : attribute == MINOR      ? 7
             : attribute == INTEGRATED ? std::getenv("FAKE_CUDA_INTEGRATED") != nullptr
                                       : 16;
    return 0;
}
int cuDeviceGetName(char* name, int length, int)
{
    const char* value = std::getenv("FAKE_CUDA_NAME");
    std::strncpy(name, value == nullptr ? "Fake Orin" : value, static_cast<size_t>(length));
    return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = size_t{8} << 30; return 0; }
int cuMemGetInfo_v2(size_t* free, size_t* total)
{
    NEEDS_CONTEXT
    const char* value = std::getenv("FAKE_CUDA_FREE");
    *free = value == nullptr ? size_t{4} << 30 : std::strtoull(value, nullptr, 10);
    *total = size_t{8} << 30;
    return 0;
}
int cuDevicePrimaryCtxSetFlags_v2(int, unsigned flags)
{
    trace(flags == 4 ? "a context that is waited for asleep" : "a context with other flags");
    return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) { static int one; *context = &one; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void* context) { current = context; return 0; }

int cuStreamCreate(void** stream, unsigned)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    auto* made = new Stream;
    streams.insert(made);
    *stream = made;
    return 0;
}
int cuStreamSynchronize(void* stream)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    auto* of = static_cast<Stream*>(stream);
    if (of->is_capturing) {
        of->is_spoilt = true;
        return CAPTURE_UNSUPPORTED;
    }
    finish(of);
    return fails("copy") || fails("engine") ? LOST : of->error;
}
int cuStreamDestroy_v2(void* stream)
{
    Guard guard(one_call);
    streams.erase(static_cast<Stream*>(stream));
    delete static_cast<Stream*>(stream);
    return 0;
}

int cuEventCreate(void** event, unsigned flags)
{
    NEEDS_CONTEXT
    if ((flags & 1) != 0)
        trace("an event that is waited for asleep");
    *event = new Event;
    return 0;
}
int cuEventDestroy_v2(void* event) { delete static_cast<Event*>(event); return 0; }
int cuEventRecord(void* event, void* stream)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    if (static_cast<Stream*>(stream)->is_capturing) {
        static_cast<Stream*>(stream)->is_spoilt = true;
        return CAPTURE_UNSUPPORTED;
    }
    static uint64_t num_marks = 0;
    *static_cast<Event*>(event) = {static_cast<Stream*>(stream), ++num_marks};
    add(static_cast<Stream*>(stream), {[] {}, nullptr, num_marks});
    return 0;
}
int cuEventSynchronize(void* event)
{
    NEEDS_CONTEXT
    // Nobody else waits meanwhile.
    if (const char* millis = std::getenv("FAKE_CUDA_WAIT_MILLIS"))
        std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(millis)));
    Guard guard(one_call);
    const Event of = *static_cast<Event*>(event);
    finish_to(of.stream, of.mark);
    if (of.stream == nullptr)
        return 0;
    return fails("copy") ? LOST : of.stream->error;
}
// As if everything took a tenth of a millisecond.
int cuEventElapsedTime_v2(float* millis, void* begin, void* end)
{
    NEEDS_CONTEXT
    (void)begin;
    (void)end;
    *millis = 0.1f;
    return 0;
}
int cuEventElapsedTime(float* millis, void* begin, void* end) { return cuEventElapsedTime_v2(millis, begin, end); }
int cuStreamWaitEvent(void* stream, void* event, unsigned)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    const Event of = *static_cast<Event*>(event);
    add(static_cast<Stream*>(stream), {[=] { finish_to(of.stream, of.mark); }});
    return 0;
}

int cuMemAlloc_v2(unsigned long long* pointer, size_t bytes)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    if (spoils_capture())
        return CAPTURE_UNSUPPORTED;
    if (fails("alloc"))
        return FULL;
    void* made = std::malloc(bytes);
    std::memset(made, 0xa5, bytes);
    *pointer = reinterpret_cast<uintptr_t>(made);
    return 0;
}
int cuMemFree_v2(unsigned long long pointer)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    spoils_capture();
    // The driver waits for what may use it.
    for (Stream* stream : streams)
        finish(stream);
    std::free(reinterpret_cast<void*>(static_cast<uintptr_t>(pointer)));
    return 0;
}
int cuMemHostAlloc(void** pointer, size_t bytes, unsigned)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    if (fails("pinned"))
        return FULL;
    *pointer = std::malloc(bytes);
    page_locked[static_cast<const char*>(*pointer)] = bytes;
    return 0;
}
int cuMemFreeHost(void* pointer)
{
    Guard guard(one_call);
    const auto end = static_cast<const char*>(pointer) + page_locked[static_cast<const char*>(pointer)];
    for (Stream* stream : streams)
        for (const Work& work : stream->waiting)
            if (work.host >= pointer && work.host < end) {
                std::fprintf(stderr, "stand-in: page-locked memory goes while a copy to or from it is outstanding\n");
                std::abort();
            }
    page_locked.erase(static_cast<const char*>(pointer));
    std::free(pointer);
    return 0;
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t bytes, void* stream)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    void* const target = reinterpret_cast<void*>(static_cast<uintptr_t>(to));
    if (is_page_locked(from)) {
        add(static_cast<Stream*>(stream), {[=] { std::memcpy(target, from, bytes); }, from});
        return 0;
    }
    // From other memory the driver takes a copy first.
    std::shared_ptr<std::vector<char>> copy = std::make_shared<std::vector<char>>(
        static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    add(static_cast<Stream*>(stream), {[=] { std::memcpy(target, copy->data(), bytes); }});
    return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t bytes, void* stream)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    const void* const source = reinterpret_cast<const void*>(static_cast<uintptr_t>(from));
    add(static_cast<Stream*>(stream), {[=] { std::memcpy(to, source, bytes); }, to});
    return 0;
}
int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void* stream)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    const void* const source = reinterpret_cast<const void*>(static_cast<uintptr_t>(from));
    void* const target = reinterpret_cast<void*>(static_cast<uintptr_t>(to));
    add(static_cast<Stream*>(stream), {[=] { std::memcpy(target, source, bytes); }});
    return 0;
}
int cuMemsetD8Async(unsigned long long to, unsigned char byte, size_t bytes, void* stream)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    add(static_cast<Stream*>(stream), {[=] { std::memset(reinterpret_cast<void*>(static_cast<uintptr_t>(to)), byte, bytes); }});
    return 0;
}

int cuModuleLoadData(void** module, const void* image)
{
    NEEDS_CONTEXT
    const char* const text = static_cast<const char*>(image);
    if (std::strstr(text, ".version") == nullptr)
        return INVALID_IMAGE;
    *module = new Module{text};
    return 0;
}
int cuModuleUnload(void* module) { delete static_cast<Module*>(module); return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name)
{
    const std::string entry = std::string(".entry ") + name + "(";
    if (static_cast<Module*>(module)->text.find(entry) == std::string::npos || hsg_twin_num_arguments(name) < 0)
        return NOT_FOUND;
    static std::set<std::string> names;
    Guard guard(one_call);
    *function = const_cast<char*>(names.insert(name).first->c_str());
    return 0;
}
int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned, unsigned num_threads, unsigned, unsigned,
                   unsigned, void* stream, void** arguments, void**)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    if (fails("launch"))
        return LOST;
    if (fails("busy"))
        return OUT_OF_RESOURCES;
    const char* const name = static_cast<const char*>(function);
    // hsg gives every argument eight bytes.
    std::vector<uint64_t> values(static_cast<size_t>(hsg_twin_num_arguments(name)));
    for (size_t i = 0; i < values.size(); i++)
        std::memcpy(&values[i], arguments[i], 8);
    auto* const of = static_cast<Stream*>(stream);
    add(of, {[=] {
        std::vector<uint64_t> mine = values;
        std::vector<void*> pointers;
        for (uint64_t& value : mine)
            pointers.push_back(&value);
        // Threads of a block take turns in the other direction in every other launch: what depends on it shows.
        if (hsg_twin_launch(name, grid_x, grid_y, num_threads, num_launched++ % 2, pointers.data()) != 0)
            of->error = LOST;
    }});
    return 0;
}

int cuStreamBeginCapture_v2(void* stream, int)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    auto* of = static_cast<Stream*>(stream);
    of->captured.clear();
    of->is_capturing = true;
    of->is_spoilt = false;
    capturing = of;
    return 0;
}
int cuStreamEndCapture(void* stream, void** graph)
{
    Guard guard(one_call);
    auto* of = static_cast<Stream*>(stream);
    of->is_capturing = false;
    capturing = nullptr;
    *graph = nullptr;
    if (of->is_spoilt || fails("capture"))
        return CAPTURE_INVALIDATED;
    trace("captured");
    *graph = new Graph{of->captured};
    return 0;
}
int cuGraphInstantiateWithFlags(void** instance, void* graph, unsigned long long)
{
    *instance = new Graph{*static_cast<Graph*>(graph)};
    return 0;
}
int cuGraphDestroy(void* graph) { delete static_cast<Graph*>(graph); return 0; }
int cuGraphExecDestroy(void* instance) { delete static_cast<Graph*>(instance); return 0; }
int cuGraphLaunch(void* instance, void* stream)
{
    NEEDS_CONTEXT
    Guard guard(one_call);
    if (fails("graph"))
        return LOST;
    trace("graph");
    for (const Work& work : static_cast<Graph*>(instance)->work)
        add(static_cast<Stream*>(stream), work);
    return 0;
}

int cuGetErrorString(int error, const char** text)
{
    *text = error == FULL                  ? "out of memory"
            : error == LOST                ? "unspecified launch failure"
            : error == CAPTURE_UNSUPPORTED ? "operation not permitted when stream is capturing"
            : error == INVALID_CONTEXT     ? "invalid device context"
            : error == CAPTURE_INVALIDATED ? "operation failed due to a previous error during capture"
            : error == NOT_FOUND           ? "named symbol not found"
            : error == OUT_OF_RESOURCES    ? "too many resources requested for launch"
                                           : "not supported";
    return 0;
}
}

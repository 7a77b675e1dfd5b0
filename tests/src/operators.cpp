// Counts the operators of libtorch that a thread runs, autograd's threads for it included: those that start a kernel on a
// GPU. Views, shapes and allocations do not, and an operator that is made of others is counted as these.
#include <ATen/record_function.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

std::mutex lock;
std::map<std::string, uint64_t> counts;
at::CallbackHandle handle;

struct Running {
  bool is_composite = false;
};

// Operators that look at values, whatever they are made of.
const std::set<std::string> reading = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2",  "aten::unique_dim", "aten::bincount",
    "aten::masked_select",       "aten::equal",   "aten::is_nonzero"};

thread_local std::vector<Running> running;

const std::set<std::string> trivial = {
    "view",       "_unsafe_view", "reshape",    "_reshape_alias", "transpose",        "permute",          "t",
    "expand",     "expand_as",    "slice",      "narrow",         "select",           "unsqueeze",        "squeeze",
    "as_strided", "as_strided_",  "detach",     "alias",          "split_with_sizes", "diagonal",         "flatten",
    "resize_",    "set_",         "result_type", "resolve_conj",  "resolve_neg",      "to",               "contiguous",
    "detach_",    "matmul",       "unbind",     "set_data",       "chunk",            "squeeze_",         "expand_"};

bool is_trivial(const std::string &name) {
  if (name.rfind("autograd::", 0) == 0) {
    return true;
  }
  const std::string short_name = name.rfind("aten::", 0) == 0 ? name.substr(6) : name;
  return trivial.count(short_name) != 0 || short_name.rfind("empty", 0) == 0;
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction &function) {
  if (!running.empty() && !is_trivial(function.name())) {
    for (Running &outer : running) {
      outer.is_composite = true;
    }
  }
  running.emplace_back();
  return nullptr;
}

void end(const at::RecordFunction &function, at::ObserverContext *) {
  // What was running when counting began ends without having begun.
  if (running.empty()) {
    return;
  }
  const bool is_composite = running.back().is_composite;
  running.pop_back();
  if ((!is_composite && !is_trivial(function.name())) || reading.count(function.name()) != 0) {
    std::lock_guard<std::mutex> guard(lock);
    ++counts[function.name()];
  }
}

} // namespace

// Begins to count on this thread. One thread of a process may do so at a time.
extern "C" void hsg_count_operators() noexcept {
  counts.clear();
  running.clear();
  handle = at::addThreadLocalCallback(at::RecordFunctionCallback(begin, end).scopes({at::RecordScope::FUNCTION}));
}

// Tells every name and how often it ran since the last time.
extern "C" void hsg_operators_counted(void (*tell)(void *context, const char *name, uint64_t count),
                                      void *context) noexcept {
  std::lock_guard<std::mutex> guard(lock);
  for (const auto &[name, count] : counts) {
    tell(context, name.c_str(), count);
  }
  counts.clear();
}

// Ends it, on the same thread.
extern "C" void hsg_stop_counting_operators() noexcept { at::removeCallback(handle); }

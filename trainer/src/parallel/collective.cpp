// A sum over processes that autograd can go back through: y = Σ_ranks x, so dx = Σ_ranks dy.
//
// The sum itself is made by a function of ours in Rust. No exception leaves this file and none comes in: both sides
// answer 0 for success, or another number with a message.
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdio>
#include <exception>
#include <stdexcept>

namespace {

// Sums `tensor` over all ranks in place; on failure writes a message of at most `capacity` bytes, 0 included.
using Sum = int (*)(void *context, at::Tensor *tensor, char *message, size_t capacity);
using Release = void (*)(void *context);

// Who sums. The nodes of a graph share one, and the last of them gives it back.
struct Summer : torch::CustomClassHolder {
  void *context;
  Sum sum;
  Release release;

  Summer(void *context, Sum sum, Release release) : context(context), sum(sum), release(release) {}
  ~Summer() override { release(context); }

  at::Tensor of(const at::Tensor &x) const {
    // A tensor of our own in row-major order: every rank sends the same elements in the same order, whatever the
    // strides that its x happens to have.
    at::Tensor y = x.detach().clone(at::MemoryFormat::Contiguous);
    char message[512] = "";
    if (sum(context, &y, message, sizeof message) != 0) {
      throw std::runtime_error(message);
    }
    return y;
  }
};

const Summer &summer(const c10::intrusive_ptr<torch::CustomClassHolder> &holder) {
  return static_cast<const Summer &>(*holder);
}

struct SumOverRanks : public torch::autograd::Function<SumOverRanks> {
  static at::Tensor forward(torch::autograd::AutogradContext *ctx, const at::Tensor &x,
                            const c10::intrusive_ptr<torch::CustomClassHolder> &holder) {
    ctx->saved_data["summer"] = c10::IValue::make_capsule(holder);
    return summer(holder).of(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *ctx,
                                                 torch::autograd::variable_list grads) {
    return {summer(ctx->saved_data["summer"].toCapsule()).of(grads[0]), at::Tensor()};
  }
};

void say(const char *what, char *message, size_t capacity) {
  std::snprintf(message, capacity, "%s", what);
}

} // namespace

// Puts a new tensor, to be freed with at_free, into `*result`. Takes `context` over in every case.
extern "C" int hsg_sum_over_ranks(at::Tensor *x, void *context, Sum sum, Release release, at::Tensor **result,
                                  char *message, size_t capacity) noexcept {
  try {
    auto holder = c10::make_intrusive<Summer>(context, sum, release);
    *result = new at::Tensor(SumOverRanks::apply(*x, c10::intrusive_ptr<torch::CustomClassHolder>(holder)));
    return 0;
  } catch (const std::exception &error) {
    say(error.what(), message, capacity);
  } catch (...) {
    say("an exception of unknown type", message, capacity);
  }
  return 1;
}

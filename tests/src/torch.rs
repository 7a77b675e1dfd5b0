//! Where the suites of libtorch compute.

use tch::Device;
use trainer::device::Compute;

/// `HSG_TEST_DEVICE` (cpu, cuda, cuda:N), the CPU where it is not set: `cargo xtask gpu-check` runs the golden numbers on
/// a GPU with it.
///
/// # Panics
/// When it names a GPU that is not there.
pub fn device() -> Device {
    trainer::cuda::preload();
    let name = std::env::var("HSG_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    match Compute::resolve(&name, "fp32") {
        Ok(compute) => compute.device,
        Err(error) => panic!("HSG_TEST_DEVICE: {error}"),
    }
}

//! Raw Video4Linux bindings, in the place of the crate of the same name on crates.io.
//!
//! That crate runs bindgen in its build and so wants libclang on every machine that compiles a camera program. These
//! bindings are committed instead (`cargo xtask v4l2-bindings` says how they were made, and compares). They hold for
//! 64-bit little-endian Linux: the output of bindgen for aarch64 is the same, byte for byte.
//!
//! Only `v4l` uses this; our own code calls `v4l`. The layouts that the kernel sees are checked below.

// What bindgen writes: C's names, accessors of bit fields, nothing documented.
#![allow(
    unsafe_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rust_2018_idioms,
    unsafe_op_in_unsafe_fn,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("these Video4Linux bindings are for 64-bit little-endian Linux");

include!("bindings.rs");

// The sizes are part of the ioctl numbers: with another one the kernel answers ENOTTY.
const _: () = {
    assert!(size_of::<v4l2_capability>() == 104);
    assert!(size_of::<v4l2_format>() == 208);
    assert!(size_of::<v4l2_requestbuffers>() == 20);
    assert!(size_of::<v4l2_buffer>() == 88);
    assert!(size_of::<v4l2_fmtdesc>() == 64);
    assert!(size_of::<v4l2_frmsizeenum>() == 44);
    assert!(size_of::<v4l2_frmivalenum>() == 52);
    assert!(size_of::<v4l2_streamparm>() == 204);
    assert!(size_of::<v4l2_query_ext_ctrl>() == 232);
    assert!(size_of::<v4l2_ext_control>() == 20);
};

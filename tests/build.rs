//! Test binaries that link libtorch (feature `torch`) find it at run time by an rpath. The CUDA kernels are compiled for the
//! host (`kernel_twin/`). With the feature `tensorrt` stand-ins for its libraries are compiled (`tensorrt_twin/`).

#[path = "tensorrt_twin/build.rs"]
mod tensorrt_twin;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    compile_kernels();
    if std::env::var_os("CARGO_FEATURE_TENSORRT").is_some() {
        tensorrt_twin::compile();
    }
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        if std::env::var_os("CARGO_FEATURE_TORCH").is_some() {
            compile_operators(std::path::Path::new(&lib));
        }
    }
}

/// The counter of libtorch's operators, compiled as the trainer's C++ is.
fn compile_operators(lib: &std::path::Path) {
    const SOURCE: &str = "src/operators.cpp";
    println!("cargo:rerun-if-changed={SOURCE}");
    for name in ["LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let root = std::env::var_os("LIBTORCH_INCLUDE").map(std::path::PathBuf::from);
    let root = root.or_else(|| lib.parent().map(std::path::Path::to_owned)).unwrap_or_default();
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(root.join("include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .file(SOURCE)
        .compile("hsg_operators");
}

/// Where the kernels' sources are.
const KERNELS: &str = "../runtime/src/backend/kernels";
/// The files of their twin.
const KERNEL_TWIN: [&str; 6] = ["twin", "preprocess", "spherical_kmeans", "top_k", "refine", "frame"];

fn compile_kernels() {
    println!("cargo:rerun-if-changed=kernel_twin");
    println!("cargo:rerun-if-changed={KERNELS}");
    let mut build = cc::Build::new();
    for name in KERNEL_TWIN {
        build.file(format!("kernel_twin/{name}.cpp"));
    }
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        // As NVRTC is told: a·b + c rounds twice unless the source says fmaf.
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        .include(KERNELS)
        .compile("hsg_kernel_twin");
}

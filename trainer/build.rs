//! hsg-train finds libtorch at run time by an rpath; the feature `collective` has a C++ file to compile.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        #[cfg(feature = "collective")]
        compile_collective(std::path::Path::new(&lib));
    }
}

/// The differentiable sum, compiled as torch-sys compiles its own wrapper of libtorch.
#[cfg(feature = "collective")]
fn compile_collective(lib: &std::path::Path) {
    const SOURCE: &str = "src/parallel/collective.cpp";
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
        .pic(true)
        .warnings(false)
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .file(SOURCE)
        .compile("hsg_collective");
}

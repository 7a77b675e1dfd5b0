//! Stand-ins for libnvinfer, libnvonnxparser and libcuda (`nvinfer.cpp`, `cuda.cpp`): compiled against the headers that the shim
//! was compiled with; libcuda's has the kernels (`kernel_twin/`). The variable `HSG_TENSORRT_TWIN` becomes the file of libnvinfer's,
//! beside which the others are; without headers of TensorRT 10 or 11 there are none.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Interfaces of NvInferImpl.h that the stand-in has.
const INTERFACES: [&str; 11] = [
    "HostMemory",
    "Runtime",
    "OptimizationProfile",
    "CudaEngine",
    "ExecutionContext",
    "EngineInspector",
    "NetworkDefinition",
    "TimingCache",
    "BuilderConfig",
    "Builder",
    "RuntimeConfig",
];

pub fn compile() {
    println!("cargo:rerun-if-changed=tensorrt_twin");
    let headers = PathBuf::from(std::env::var_os("DEP_HSG_TENSORRT_HEADERS").unwrap_or_default());
    let version = fs::read_to_string(headers.join("NvInferVersion.h")).unwrap_or_default();
    let Some(major) =
        [10, 11].into_iter().find(|major| version.contains(&format!("define TRT_MAJOR_ENTERPRISE {major}")))
    else {
        println!("cargo:warning=no headers of TensorRT 10 or 11: nothing stands in for its libraries in the tests");
        return;
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("tensorrt_twin");
    fs::create_dir_all(&out).expect("a folder for the stand-ins");
    fs::write(out.join("stubs.h"), stubs(&headers)).expect("the stubs can be written");
    let library = |sources: &[String], includes: &[&str], names: &[&str]| {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(2).warnings(false).flag("-isystem").flag(&headers).include(&out);
        // As the kernels' own twin is compiled.
        build.flag("-ffp-contract=off").flag("-Wno-unknown-pragmas").includes(includes);
        let file = out.join(names[0]);
        let mut command = build.get_compiler().to_command();
        command.args(["-shared", "-fPIC", "-Wl,--no-undefined", "-Wl,-Bsymbolic", "-o"]).arg(&file).args(sources);
        let status = command.arg("-ldl").status().expect("a compiler");
        assert!(status.success(), "{sources:?} does not compile: {command:?}");
        for name in &names[1..] {
            fs::copy(&file, out.join(name)).expect("a second name");
        }
    };
    let nvinfer = ["tensorrt_twin/nvinfer.cpp".to_owned()];
    let names = [format!("libnvinfer.so.{major}"), format!("libnvonnxparser.so.{major}")];
    library(&nvinfer, &["../crates/tensorrt-sys/shim/stub"], &[&names[0], &names[1]]);
    let kernels = super::KERNEL_TWIN.iter().map(|name| format!("kernel_twin/{name}.cpp"));
    let cuda: Vec<String> = kernels.chain(["tensorrt_twin/cuda.cpp".to_owned()]).collect();
    library(&cuda, &[super::KERNELS, "kernel_twin"], &["libcuda.so"]);
    println!("cargo:rustc-env=HSG_TENSORRT_TWIN={}", out.join(&names[0]).display());
}

/// For every interface a class whose functions end the process by their names.
fn stubs(headers: &Path) -> String {
    let read = |name: &str| {
        let text = fs::read_to_string(headers.join(name)).expect("TensorRT's headers");
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    };
    let (interfaces, parser) = (read("NvInferImpl.h"), read("NvOnnxParser.h"));
    let mut stubs = String::from(
        "#pragma once\n#include <NvInfer.h>\n#include <NvOnnxParser.h>\n#include <cstdio>\n#include <cstdlib>\n\
         [[noreturn]] static void unexpected(char const* name) { std::fprintf(stderr, \"stand-in: %s\\n\", name); std::abort(); }\n\
         namespace nvinfer1 { namespace apiv {\n",
    );
    for name in INTERFACES {
        stub(&mut stubs, &interfaces, &format!("V{name}"), &format!("S{name}"));
    }
    stubs.push_str("} }\nnamespace nvonnxparser {\n");
    for name in ["ParserError", "Parser"] {
        stub(&mut stubs, &parser, &format!("I{name}"), &format!("S{name}"));
    }
    stubs.push_str("}\n");
    stubs
}

fn stub(stubs: &mut String, text: &str, base: &str, name: &str) {
    let start = text.find(&format!("class {base} ")).or_else(|| text.find(&format!("class {base}\n")));
    let body = &text[start.unwrap_or_else(|| panic!("no class {base}"))..];
    let body = &body[..body.find("\n};").unwrap_or(body.len())];
    let _ = writeln!(stubs, "struct {name} : {base} {{");
    for piece in without_conditions(body).split(';') {
        let Some(at) = piece.rfind("virtual ") else { continue };
        let declaration = piece[at + "virtual ".len()..].split_whitespace().collect::<Vec<_>>().join(" ");
        let Some(function) = declaration.strip_suffix("= 0").map(str::trim) else { continue };
        if function.starts_with('~') {
            continue;
        }
        let called = function.split('(').next().and_then(|head| head.split([' ', '*', '&']).next_back());
        let called = called.unwrap_or_default();
        let _ = writeln!(stubs, "    {function} override {{ unexpected(\"{base}::{called}\"); }}");
    }
    stubs.push_str("};\n");
}

/// Without what only NVIDIA's own builds of a header have.
fn without_conditions(text: &str) -> String {
    let mut depth = 0;
    let mut kept = String::new();
    for line in text.lines() {
        depth += usize::from(line.starts_with("#if"));
        if depth == 0 {
            kept.push_str(line);
            kept.push('\n');
        }
        depth = depth.saturating_sub(usize::from(line.starts_with("#endif")));
    }
    kept
}

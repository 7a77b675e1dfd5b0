//! TensorRT up to the first call of the driver: networks as it is given them, engine files, the cache, and, in a build with
//! the feature `tensorrt`, what `hsg` says about libraries that are missing, cut, too old, foreign, or without a driver.
//!
//! Nothing here runs a real engine: that takes a GPU (`docs/jetson.md`, `cargo xtask board-check`). A frame's way on the GPU is in
//! `device_frame.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use models::graph::{ElementType, Op};
use models::manifest::{ModelFolder, Precision, embedding_file, grouping_file};
use models::onnx::{Storage, read, write};
use models::passes::prepare_for_quantization;
use models::passes::quantize::{Form, insert_qdq};
use models::weights::Tensor;
use predicates::prelude::*;
use runtime::backend::NetworkKind;
use runtime::backend::tensorrt::engine_file::{BuildRecord, Gpu, Layer, encode};
use runtime::backend::tensorrt::{EngineCache, EngineManifest, Identity, identity_of, prepare};
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::preprocess::Preprocessor;
use tests::disks::SmallDisk;
use tests::folders::{tiny_model, workspace};
use tests::networks::{observe, run_on_cpu};
use tests::programs::{Sandbox, assert_refused};

fn found() -> runtime::backend::tensorrt::Found {
    runtime::backend::tensorrt::Found {
        version: "10.3.0".into(),
        library: "libnvinfer.so.10".into(),
        cannot_build: None,
        gpu: Gpu { name: "Orin".into(), capability: (8, 7) },
        driver: "12.6".into(),
    }
}

fn image() -> Tensor {
    let values = (0..3 * 64 * 96).map(|i| (i as f64 * 0.11).sin() as f32).collect();
    Tensor { shape: vec![1, 3, 64, 96], values }
}

/// The tiny model with an int8 embedding network, made as `hsg-calibrate` makes it.
fn int8_model(out: &Path) -> ModelFolder {
    let folder = ModelFolder::open(&tiny_model()).unwrap();
    let path = folder.embedding_path(Precision::Fp32).unwrap();
    let (mut graph, mut weights) = read(&fs::read(&path).unwrap(), &path).unwrap();
    prepare_for_quantization(&mut graph, &mut weights).unwrap();
    let ranges = observe(&graph, &weights, &[vec![("image", &image())]]);
    insert_qdq(&mut graph, &mut weights, &ranges, Form::Cpu, &Default::default()).unwrap();
    let bytes = write(&graph, &weights, Storage::Full).unwrap();
    folder.rewrite(Some(out), &[(&embedding_file(Precision::Int8), &bytes)]).unwrap()
}

#[test]
fn fp32_goes_as_it_is_and_fp16_is_made_of_it() {
    for model in [tiny_model(), workspace().join("models/zoo/camvid-r18")] {
        let folder = ModelFolder::open(&model).unwrap();
        for kind in NetworkKind::ALL {
            let full = prepare(&folder, kind, Precision::Fp32, 11).unwrap();
            assert_eq!(full.onnx, fs::read(kind.path(&folder, Precision::Fp32).unwrap()).unwrap());
            let half = prepare(&folder, kind, Precision::Fp16, 11).unwrap();
            assert_eq!(half.precision, Precision::Fp16);
            let (graph, _) = read(&half.onnx, &half.source).unwrap();
            // Strongly typed: convolutions and matrices in fp16, inputs and outputs in fp32.
            let types = graph.element_types().unwrap();
            let layers: Vec<_> = graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv { .. } | Op::MatMul)).collect();
            assert!(!layers.is_empty() && layers.iter().all(|node| types[&node.output] == ElementType::Half));
            assert!(graph.outputs.iter().all(|output| types[&output.name] == ElementType::Float));
            // The same for every version of TensorRT, and every time.
            assert_eq!(prepare(&folder, kind, Precision::Fp16, 8).unwrap(), half);
        }
    }
}

#[test]
fn shapes_cover_every_frame_up_to_the_models_input() {
    let folder = ModelFolder::open(&workspace().join("models/zoo/camvid-r18")).unwrap();
    let (input, multiple) = (folder.manifest().preprocessing.input, folder.manifest().preprocessing.multiple);
    let network = prepare(&folder, NetworkKind::Embedding, Precision::Fp16, 10).unwrap();
    let range = &network.shapes["image"];
    assert_eq!(range.least, [1, 3, multiple, multiple]);
    assert!(range.most[2] >= input.height && range.most[3] >= input.width);
    assert!(range.most[2] < input.height + multiple && range.most[3] < input.width + multiple);
    let grouping = prepare(&folder, NetworkKind::Grouping, Precision::Fp16, 10).unwrap();
    assert_eq!(grouping.shapes, BTreeMap::new());
}

/// The first axis counts frames, in every form that TensorRT is given: several are each as alone, to the last bit but for
/// what a library that sums in another order for other shapes leaves.
#[test]
fn several_frames_at_once_are_as_one_after_the_other() {
    let sandbox = Sandbox::new();
    let int8 = int8_model(&sandbox.path("int8"));
    let shipped = ModelFolder::open(&workspace().join("models/zoo/camvid-r18")).unwrap();
    let half = |tensor: &Tensor, which: usize| {
        let len = tensor.values.len() / 2;
        Tensor { shape: [&[1], &tensor.shape[1..]].concat(), values: tensor.values[which * len..][..len].to_vec() }
    };
    for folder in [&int8, &shipped] {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
            let network = prepare(folder, NetworkKind::Embedding, precision, 10).unwrap();
            assert!(network.takes_batches);
            let of_four = network.clone().for_batches(4);
            assert_eq!((of_four.shapes["image"].least[0], of_four.shapes["image"].best[0]), (1, 4));
            assert_eq!((of_four.shapes["image"].most[0], &of_four.onnx), (4, &network.onnx));
            assert_eq!(of_four.shapes["image"].most[1..], network.shapes["image"].most[1..]);
            assert_eq!(network.clone().for_batches(1), network);
            let (mut graph, weights) = read(&network.onnx, &network.source).unwrap();
            models::passes::to_fp32(&mut graph);
            let values = (0..2 * 3 * 64 * 96).map(|i| (i as f64 * 0.11).sin() as f32).collect();
            let both = Tensor { shape: vec![2, 3, 64, 96], values };
            let together = &run_on_cpu(&graph, &weights, &[("image", &both)])["embedding"];
            assert_eq!(together.shape[0], 2);
            for which in 0..2 {
                let alone = &run_on_cpu(&graph, &weights, &[("image", &half(&both, which))])["embedding"];
                let of_both = half(together, which);
                assert_eq!(of_both.shape, alone.shape);
                let largest = of_both.values.iter().zip(&alone.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest < 1e-4, "{}, {precision}, frame {which}: {largest}", folder.manifest().name);
            }
        }
    }
    // The grouping network has a frame's segments, always as many.
    let grouping = prepare(&shipped, NetworkKind::Grouping, Precision::Fp16, 10).unwrap();
    assert_eq!(grouping.clone().for_batches(4), grouping);
}

/// A frame of the shipped clip as the model's network gets it.
fn clip_frame(folder: &ModelFolder) -> Tensor {
    let mut video = video::VideoReader::open(tests::folders::shipped_clip()).unwrap();
    let mut frame = Frame::black(ImageSize::new(1, 1), PixelFormat::Rgb8);
    assert!(video.next_frame(&mut frame).unwrap());
    let mut preprocessor = Preprocessor::new(&folder.manifest().preprocessing, frame.size).unwrap();
    let padded = preprocessor.plan().padded;
    let mut values = vec![0.0; 3 * padded.num_pixels()];
    preprocessor.run(&frame.view(), &mut values).unwrap();
    Tensor { shape: vec![1, 3, padded.height, padded.width], values }
}

/// int8 for 8.6 and for 10 and later come from the model's int8 file, and compute what fp32 computes up to 8 bits.
#[test]
fn int8_has_the_form_of_the_version() {
    let sandbox = Sandbox::new();
    let shipped = ModelFolder::open(&workspace().join("models/zoo/camvid-r18")).unwrap();
    let frame = clip_frame(&shipped);
    for (folder, image, least) in [(int8_model(&sandbox.path("int8")), image(), 0.99), (shipped, frame, 0.998)] {
        let path = folder.embedding_path(Precision::Fp32).unwrap();
        let (graph, weights) = read(&fs::read(&path).unwrap(), &path).unwrap();
        let expected = run_on_cpu(&graph, &weights, &[("image", &image)]);
        for (major, scale) in [(8, ElementType::Float), (10, ElementType::Half), (11, ElementType::Half)] {
            let network = prepare(&folder, NetworkKind::Embedding, Precision::Int8, major).unwrap();
            assert_eq!(network.precision, Precision::Int8);
            let (mut graph, weights) = read(&network.onnx, &network.source).unwrap();
            let quantizers = graph.nodes.iter().filter(|node| matches!(node.op, Op::QuantizeLinear { .. }));
            let kinds: Vec<_> = quantizers.map(|node| [&node.inputs[1], &node.inputs[2]]).collect();
            assert!(!kinds.is_empty());
            for [scale_name, zero_point] in kinds {
                let kind = |name: &String| graph.types.get(name).copied().unwrap_or(ElementType::Float);
                assert_eq!((kind(scale_name), kind(zero_point)), (scale, ElementType::Int8), "{major}");
                assert_eq!(weights[zero_point].values, [0.0]);
            }
            models::passes::to_fp32(&mut graph);
            let got = run_on_cpu(&graph, &weights, &[("image", &image)]);
            let (a, b) = (&got["embedding"].values, &expected["embedding"].values);
            // Unit vectors, so this is the mean cosine.
            let cells = b.len() / expected["embedding"].shape[1];
            let cosine = a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>() / cells as f64;
            assert!(cosine > least, "{}, {major}: {cosine}", folder.manifest().name);
        }
        // A grouping network without int8 stays fp16.
        let grouping = prepare(&folder, NetworkKind::Grouping, Precision::Int8, 10).unwrap();
        assert_eq!(grouping.precision, Precision::Fp16);
    }
}

#[test]
fn a_model_without_int8_or_without_q_and_dq_is_refused() {
    let folder = ModelFolder::open(&tiny_model()).unwrap();
    let error = prepare(&folder, NetworkKind::Embedding, Precision::Int8, 10).unwrap_err().to_string();
    assert!(error.contains("tiny-model") && error.contains("hsg-calibrate quantize"), "{error}");
    // A file of that name that was never quantised.
    let sandbox = Sandbox::new();
    let plain = fs::read(folder.embedding_path(Precision::Fp32).unwrap()).unwrap();
    let folder = folder.rewrite(Some(&sandbox.path("m")), &[(&embedding_file(Precision::Int8), &plain)]).unwrap();
    let error = prepare(&folder, NetworkKind::Embedding, Precision::Int8, 10).unwrap_err().to_string();
    assert!(error.contains("embedding.int8.onnx") && error.contains("no QuantizeLinear"), "{error}");
    // fp16 that the folder has itself is taken as it is.
    let half = prepare(&ModelFolder::open(&tiny_model()).unwrap(), NetworkKind::Grouping, Precision::Fp16, 10).unwrap();
    let folder = folder.rewrite(Some(&sandbox.path("h")), &[(&grouping_file(Precision::Fp16), &half.onnx)]).unwrap();
    let taken = prepare(&folder, NetworkKind::Grouping, Precision::Fp16, 10).unwrap();
    assert!(taken.source.ends_with(grouping_file(Precision::Fp16)) && taken.onnx == half.onnx);
}

/// What it is built from tells engines apart: another calibration is another engine.
#[test]
fn another_calibration_is_another_engine() {
    let sandbox = Sandbox::new();
    let folder = int8_model(&sandbox.path("a"));
    let path = folder.embedding_path(Precision::Fp32).unwrap();
    let (mut graph, mut weights) = read(&fs::read(&path).unwrap(), &path).unwrap();
    prepare_for_quantization(&mut graph, &mut weights).unwrap();
    let dark = Tensor { values: image().values.iter().map(|v| v * 0.3).collect(), ..image() };
    let ranges = observe(&graph, &weights, &[vec![("image", &dark)]]);
    insert_qdq(&mut graph, &mut weights, &ranges, Form::Cpu, &Default::default()).unwrap();
    let bytes = write(&graph, &weights, Storage::Full).unwrap();
    let other = folder.rewrite(Some(&sandbox.path("b")), &[(&embedding_file(Precision::Int8), &bytes)]).unwrap();
    let identity = |folder: &ModelFolder| -> Identity {
        let network = prepare(folder, NetworkKind::Embedding, Precision::Int8, 10).unwrap();
        identity_of(folder, NetworkKind::Embedding, &network, &found(), false)
    };
    let (a, b) = (identity(&folder), identity(&other));
    assert_eq!(a.model_hash, b.model_hash);
    assert!(a.difference(&b).unwrap().contains("network file"));
    assert_eq!(identity(&folder).difference(&a), None);
}

/// An engine that does not fit the disk is used all the same; half a file is never left.
#[test]
fn a_full_disk_costs_the_next_start_only() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(sandbox.path("disk")) else { return };
    let cache = EngineCache::in_folder(&disk.0);
    let folder = ModelFolder::open(&tiny_model()).unwrap();
    let network = prepare(&folder, NetworkKind::Grouping, Precision::Fp16, 10).unwrap();
    let identity = identity_of(&folder, NetworkKind::Grouping, &network, &found(), false);
    let mut build = || Ok((vec![3; 1 << 20], BuildRecord::default()));
    let got = cache.get_or_build(&identity, false, &|_| (), &|| false, &mut build).unwrap();
    assert_eq!(got.engine.len(), 1 << 20);
    let why = got.unsaved.unwrap();
    assert!(why.contains("cannot write") && why.contains("free some space"), "{why}");
    let left: Vec<_> = fs::read_dir(cache.folder()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".lock")), "{left:?}");
    // With room it is kept.
    let mut small = || Ok((vec![3; 1000], BuildRecord::default()));
    assert!(cache.get_or_build(&identity, false, &|_| (), &|| false, &mut small).unwrap().unsaved.is_none());
}

fn engine_bytes() -> Vec<u8> {
    let folder = ModelFolder::open(&tiny_model()).unwrap();
    let network = prepare(&folder, NetworkKind::Embedding, Precision::Fp16, 10).unwrap();
    let identity = identity_of(&folder, NetworkKind::Embedding, &network, &found(), false);
    let layer = Layer { name: "stem".into(), kind: "CaskConvolution".into(), outputs: vec!["FP16".into()] };
    let build = BuildRecord { activation_bytes: 3_000_000, layers: vec![layer], ..BuildRecord::default() };
    let engine = vec![5; 4000];
    encode(&EngineManifest::new(identity, &engine, build), &engine).unwrap()
}

#[test]
fn inspect_says_what_an_engine_is() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("a.engine");
    fs::write(&path, engine_bytes()).unwrap();
    let assert = sandbox.hsg().arg("inspect").arg(&path).assert().code(0);
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    for words in ["tiny-model", "10.3.0", "Orin", "8.7", "fp16", "3.0 MB", "CaskConvolution", "stem", "loads here  no:"]
    {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    let assert = sandbox.hsg().args(["inspect", "--json"]).arg(&path).assert().code(0);
    let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!(report["manifest"]["identity"]["tensorrt"], "10.3.0");
    assert_eq!(report["loads_here"], false);
    assert_eq!(report["layers"][0]["name"], "stem");
    // Cut: refused by name.
    let bytes = engine_bytes();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_refused(
        sandbox.hsg().arg("inspect").arg(&path).assert(),
        &["a.engine", "no whole engine file", "hsg build"],
    );
}

#[test]
fn build_without_tensorrt_is_refused_and_writes_nothing() {
    let sandbox = Sandbox::new();
    for arguments in
        [&["build"][..], &["build", "--precision", "int8", "--workspace-mib", "512", "--hardware-compatible"]]
    {
        let mut hsg = sandbox.hsg();
        // Wherever TensorRT is on this machine: this one is not.
        hsg.args(arguments).arg("--model").arg(tiny_model()).env("HSG_TENSORRT", sandbox.path("libnvinfer.so.11"));
        assert_refused(hsg.assert(), &["ensor", "--backend auto"]);
    }
    assert_refused(sandbox.hsg().args(["build", "--workspace-mib", "0"]).assert(), &["workspace-mib"]);
    sandbox.hsg().args(["build", "--show-settings"]).assert().code(0).stdout(predicate::str::contains("fp16"));
    assert_eq!(fs::read_dir(sandbox.path(".")).unwrap().count(), 0);
}

/// Streams that begin on one engine move over to another when it is made.
#[test]
fn a_stream_moves_over_to_engines_that_are_made_later() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use models::manifest::ModelFolder;
    use runtime::backend::{Backend as _, BackendChoice, EngineOptions, Selection};
    use runtime::pipeline::{Deployment, DeploymentSpec, Processor, ProcessorSpec};
    use tests::fake_backend::FakeBackend;

    let (first, later) = (FakeBackend::default(), FakeBackend::default());
    let spec = DeploymentSpec {
        backend: BackendChoice::Auto,
        precision: Precision::Fp32,
        int8_float: false,
        num_threads: 1,
        batching: Default::default(),
    };
    let selection =
        Selection { info: first.probe().unwrap(), backend: Box::new(first.clone()), reason: "a test's".into() };
    let folder = ModelFolder::open(&tiny_model()).unwrap();
    let mut deployment = Deployment::load_on(folder.clone(), spec, selection).unwrap();
    let go = Arc::new(AtomicBool::new(false));
    let (may_begin, backend) = (Arc::clone(&go), later.clone());
    deployment
        .switch_later(move |stop| {
            while !may_begin.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let load = |kind: NetworkKind| {
                let path = kind.path(&folder, Precision::Fp32).unwrap();
                backend.load(&path, EngineOptions { num_threads: 1 })
            };
            Ok([load(NetworkKind::Embedding)?, load(NetworkKind::Grouping)?])
        })
        .unwrap();
    let mut processor = Processor::new(Arc::new(deployment), ProcessorSpec::default()).unwrap();
    let frame = Frame::black(ImageSize::new(96, 64), PixelFormat::Rgb8);
    let mut slots = Vec::new();
    for _ in 0..3 {
        processor.base_segments(&frame, &mut slots).unwrap();
    }
    assert!(first.frames() > 0 && later.frames() == 0);
    go.store(true, Ordering::Relaxed);
    let start = Instant::now();
    while later.frames() == 0 {
        processor.base_segments(&frame, &mut slots).unwrap();
        assert!(start.elapsed() < Duration::from_secs(60), "the stream does not move over");
    }
    let before = first.frames();
    processor.base_segments(&frame, &mut slots).unwrap();
    assert_eq!(first.frames(), before, "the first engine has nothing left to do");
}

/// Features of TensorRT's engines beside those of the CPU, on frames of the shipped clip. `HSG_TEST_ENGINES=MODEL:PRECISION`
/// (`cargo xtask board-check` sets it) makes it a failure that TensorRT is not usable; otherwise that is told.
#[test]
fn engines_agree_with_the_cpu() {
    use runtime::backend::{EngineOptions, NetworkSource, TensorBuffer, cpu::CpuBackend, tensorrt};

    let asked = std::env::var("HSG_TEST_ENGINES").ok();
    let text = asked.clone().unwrap_or_else(|| "camvid-r18:fp16".into());
    let (model, precision) = text.split_once(':').expect("MODEL:PRECISION");
    let (precision, least) = match precision {
        "fp32" => (Precision::Fp32, 0.99999),
        "fp16" => (Precision::Fp16, 0.999),
        "int8" => (Precision::Int8, 0.99),
        other => panic!("no precision: {other}"),
    };
    if let Err(lack) = tensorrt::look() {
        assert!(asked.is_none(), "TensorRT is not usable: {}", lack.found);
        tests::skip("engines beside the CPU", &lack.found);
        return;
    }
    let folder = ModelFolder::find(model, &[workspace().join("models/zoo")]).unwrap();
    let options = EngineOptions { num_threads: 4 };
    let source = |precision| NetworkSource { folder: &folder, kind: NetworkKind::Embedding, precision, max_batch: 1 };
    let load = |backend: &dyn runtime::backend::Backend, precision| {
        backend.load_network(&source(precision), options).unwrap().session().unwrap()
    };
    let mut on_gpu = load(&tensorrt::TensorRtBackend, precision);
    let mut on_cpu = load(&CpuBackend::default(), Precision::Fp32);
    let mut video = video::VideoReader::open(tests::folders::shipped_clip()).unwrap();
    let mut frame = Frame::black(ImageSize::new(1, 1), PixelFormat::Rgb8);
    let names = &folder.manifest().tensors;
    for _ in 0..5 {
        assert!(video.next_frame(&mut frame).unwrap());
        let mut preprocessor = Preprocessor::new(&folder.manifest().preprocessing, frame.size).unwrap();
        let padded = preprocessor.plan().padded;
        let mut input = vec![0.0; 3 * padded.num_pixels()];
        preprocessor.run(&frame.view(), &mut input).unwrap();
        let shape = [1, 3, padded.height, padded.width];
        let run = |session: &mut Box<dyn runtime::backend::Session>| {
            let mut output = TensorBuffer::default();
            let inputs = [(names.image.as_str(), shape.as_slice(), input.as_slice())];
            session.run(&inputs, &mut [(names.embedding.as_str(), &mut output)]).unwrap();
            output
        };
        let (got, expected) = (run(&mut on_gpu), run(&mut on_cpu));
        assert_eq!(got.shape, expected.shape);
        let cells = expected.data.len() / expected.shape[1];
        let dot: f64 = got.data.iter().zip(&expected.data).map(|(a, b)| f64::from(a * b)).sum();
        // Unit vectors, so this is the mean cosine.
        assert!(dot / cells as f64 >= least, "{precision}: mean cosine {}", dot / cells as f64);
    }
}

/// What only a program with TensorRT can say.
#[cfg(feature = "tensorrt")]
mod libraries {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use tests::pictures::street_folder;
    use tests::skip;

    /// Compiles a library with these functions.
    fn library(path: PathBuf, source: &str) -> PathBuf {
        let c = path.with_extension("c");
        fs::write(&c, source).unwrap();
        let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&path).arg(&c).status().unwrap();
        assert!(status.success(), "cc makes no {}", path.display());
        path
    }

    /// A libnvinfer that says that it has this version, and ends the process if anything is made of it.
    fn nvinfer(sandbox: &Sandbox, version: u32) -> PathBuf {
        let source = format!(
            "#include <stdlib.h>\nint getInferLibVersion(void) {{ return {version}; }}\n\
             void* createInferRuntime_INTERNAL(void* l, int v) {{ abort(); }}\n\
             void* createInferBuilder_INTERNAL(void* l, int v) {{ abort(); }}\n"
        );
        library(sandbox.path("libnvinfer.so.0"), &source)
    }

    /// Version of the headers that `hsg` was built with, as getInferLibVersion has it.
    fn headers(sandbox: &Sandbox) -> (u32, u32) {
        let assert = sandbox.hsg().arg("build").env("LD_LIBRARY_PATH", "/nowhere").assert();
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        let version =
            text.split("the headers of ").nth(1).map(|rest| rest.split([')', ',']).next().unwrap_or_default());
        let version = version.unwrap_or_else(|| panic!("no version of headers in: {text}"));
        let parts: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
        let scale = if parts[0] < 10 { 1000 } else { 10_000 };
        (parts[0], parts[0] * scale + parts[1] * 100 + parts[2])
    }

    #[track_caller]
    fn refused(sandbox: &Sandbox, library: &Path, words: &[&str]) {
        let images = sandbox.path("images");
        if !images.exists() {
            street_folder(images.clone(), 1);
        }
        let mut hsg = sandbox.hsg();
        hsg.arg("run").arg(&images).args(["--backend", "tensorrt", "--out", "out", "--model"]).arg(tiny_model());
        let words: Vec<&str> = words.iter().copied().chain(["--backend auto"]).collect();
        assert_refused(hsg.env("HSG_TENSORRT", library).assert(), &words);
        assert!(!sandbox.path("out").exists());
        // `auto` goes on without, and `doctor` tells.
        let mut hsg = sandbox.hsg();
        hsg.arg("run").arg(&images).args(["--save", "none", "--model"]).arg(tiny_model());
        hsg.env("HSG_TENSORRT", library).assert().code(0);
        let mut hsg = sandbox.hsg();
        let assert = hsg.args(["doctor", "--json"]).env("HSG_TENSORRT", library).assert();
        let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["what"] == "backend tensorrt").unwrap();
        assert_eq!(finding["standing"], "broken", "{finding}");
        assert!(finding["remedy"].as_str().is_some_and(|remedy| remedy.len() > 20), "{finding}");
    }

    #[test]
    fn a_library_that_is_not_there_or_cut_or_foreign_has_its_own_words() {
        let sandbox = Sandbox::new();
        refused(&sandbox, &sandbox.path("none.so"), &["HSG_TENSORRT", "none.so", "no such file", "install TensorRT"]);
        let text = sandbox.path("text.so");
        fs::write(&text, "no library of any kind, but a text that is long enough to have a header").unwrap();
        refused(&sandbox, &text, &["text.so", "no library", "install it again"]);
        // A cut library would end the process by a bus error if the system's loader got it.
        let whole = fs::read(nvinfer(&sandbox, 110_400)).unwrap();
        let cut = sandbox.path("cut.so");
        fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
        refused(&sandbox, &cut, &["cut.so", "is cut", "install it again"]);
        let other = library(sandbox.path("other.so"), "int unrelated(void) { return 1; }");
        refused(&sandbox, &other, &["other.so", "is no TensorRT"]);
        let lacking = library(sandbox.path("lacking.so"), "int nowhere(void); int f(void) { return nowhere(); }");
        refused(&sandbox, &lacking, &["lacking.so", "cannot be opened", "nowhere"]);
    }

    #[test]
    fn a_library_of_another_version_has_its_own_words() {
        let sandbox = Sandbox::new();
        let (major, _) = headers(&sandbox);
        refused(&sandbox, &nvinfer(&sandbox, 8503), &["TensorRT 8.5.3", "expected 8.6 or newer"]);
        refused(&sandbox, &nvinfer(&sandbox, 7203), &["TensorRT 7.2.3", "expected 8.6 or newer"]);
        for (other, number, version) in [(8, 8601, "8.6.1"), (10, 100_700, "10.7.0"), (11, 110_400, "11.4.0")] {
            if other != major {
                let words = [&*format!("TensorRT {version}"), &*format!("expected {major}.x"), "build hsg again"];
                refused(&sandbox, &nvinfer(&sandbox, number), &words);
            }
        }
        let (_, number) = headers(&sandbox);
        assert!(number > 8600);
        // Within a major version, too: tables of functions grow with each minor one.
        let first = major * 10_000;
        if major >= 10 && number / 100 > first / 100 {
            let words = [&*format!("TensorRT {major}.0.0"), "or newer", "older library lacks"];
            refused(&sandbox, &nvinfer(&sandbox, first), &words);
        }
    }

    /// Whether this machine has a driver, which would make of these tests something else.
    fn has_driver() -> bool {
        Path::new("/proc/driver/nvidia").exists() || Path::new("/etc/nv_tegra_release").exists()
    }

    /// The libraries of these tests end the process if they are asked for an object: nobody asks before the driver works.
    #[test]
    fn without_a_driver_nothing_of_tensorrt_is_made() {
        if has_driver() {
            skip("TensorRT without a driver", "this machine has one");
            return;
        }
        let sandbox = Sandbox::new();
        let (_, number) = headers(&sandbox);
        let library_path = nvinfer(&sandbox, number);
        refused(&sandbox, &library_path, &["is here", "no GPU that it could use", "libcuda.so is not on this machine"]);
        // A driver without a device, and one that is too old.
        let stub = |name: &str, init: u32, version: u32, devices: u32| {
            let folder = sandbox.path(name);
            fs::create_dir(&folder).unwrap();
            let source = format!(
                "int cuInit(unsigned f) {{ return {init}; }}\n\
                 int cuDriverGetVersion(int* v) {{ *v = {version}; return 0; }}\n\
                 int cuDeviceGetCount(int* n) {{ *n = {devices}; return 0; }}\n\
                 int cuGetErrorString(int e, const char** s) {{ *s = \"no device, says the stub\"; return 0; }}\n"
            );
            library(folder.join("libcuda.so"), &source);
            folder
        };
        for (folder, words) in [
            (stub("no-device", 100, 12_060, 0), ["CUDA does not start", "no device, says the stub"]),
            (stub("hidden", 0, 12_060, 0), ["shows no GPU", "CUDA_VISIBLE_DEVICES"]),
            (stub("old", 0, 11_040, 1), ["the driver has CUDA 11.4", "12.2 or newer"]),
        ] {
            let mut hsg = sandbox.hsg();
            hsg.args(["build", "--model"]).arg(tiny_model()).env("HSG_TENSORRT", &library_path);
            let words: Vec<&str> = words.into_iter().chain(["is here", "--backend auto"]).collect();
            assert_refused(hsg.env("LD_LIBRARY_PATH", folder).assert(), &words);
        }
    }

    /// NVIDIA's own libraries, where `cargo xtask deps tensorrt` has put them: 8.6.0 whole, of 11.4 the one that only runs
    /// engines. Opened and asked for their version; no crash without a driver.
    #[test]
    fn the_real_libraries_are_opened_and_told_apart() {
        let deps = workspace().join(".deps/tensorrt");
        let (old, lean) = (deps.join("8.6/libnvinfer.so.8"), deps.join("11.4-lean/libnvinfer_lean.so.11"));
        if !old.is_file() || !lean.is_file() {
            skip("NVIDIA's own libraries", "they are not in .deps/tensorrt (`cargo xtask deps tensorrt`, 0.9 GB)");
            return;
        }
        let sandbox = Sandbox::new();
        let (major, _) = headers(&sandbox);
        for (path, its_major, version) in [(old, 8, "8.6.0"), (lean, 11, "11.4.0")] {
            if its_major != major {
                refused(&sandbox, &path, &[&format!("TensorRT {version}"), &format!("expected {major}.x")]);
            } else if !has_driver() {
                refused(&sandbox, &path, &[&format!("TensorRT {version} is here"), "no GPU that it could use"]);
            }
        }
    }
}

/// The whole way against stand-ins for libnvinfer and libcuda (`tests/tensorrt_twin`): our side of their interfaces, who makes
/// and destroys what, what is kept, and what is said when something fails. It computes nothing worth a look.
#[cfg(feature = "tensorrt")]
mod stand_ins {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use segcore::yuv::{YuvColors, frame_to_rgb};
    use tests::folders::shipped_clip;
    use tests::outputs::{assert_whole, files, read_json};
    use tests::programs::{Started, hsg};
    use tests::skip;

    struct Bench {
        sandbox: Sandbox,
        library: &'static Path,
    }

    impl Bench {
        fn new() -> Option<Self> {
            let Some(library) = tests::stand_ins::stand_in() else {
                skip("TensorRT's stand-ins", "hsg was built with headers of another version than 10 or 11");
                return None;
            };
            Some(Self { sandbox: Sandbox::new(), library })
        }

        /// `hsg` with the stand-ins and variables.
        fn std_command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
            let mut command = self.sandbox.command(hsg());
            command.args(arguments).env("HSG_TENSORRT", self.library);
            command.env("LD_LIBRARY_PATH", self.library.parent().unwrap());
            command.env("HSG_MODELS", tiny_model().parent().unwrap());
            command.env("HSG_CACHE", self.sandbox.path("cache")).env("FAKE_TENSORRT_TRACE", self.sandbox.path("trace"));
            command.envs(variables.iter().copied());
            command
        }

        fn hsg(&self, arguments: &[&str], variables: &[(&str, &str)]) -> assert_cmd::assert::Assert {
            assert_cmd::Command::from_std(self.std_command(arguments, variables)).assert()
        }

        fn build(&self, more: &[&str], variables: &[(&str, &str)]) -> assert_cmd::assert::Assert {
            self.hsg(&[&["build", "--model", "tiny-model"], more].concat(), variables)
        }

        fn run(&self, more: &[&str], variables: &[(&str, &str)]) -> assert_cmd::assert::Assert {
            let clip = shipped_clip().display().to_string();
            let usual = ["run", &clip, "--model", "tiny-model", "--precision", "fp16", "--frames", "4"];
            self.hsg(&[&usual, more].concat(), variables)
        }

        /// Lines of the trace so far; it begins anew.
        fn trace(&self) -> Vec<String> {
            let path = self.sandbox.path("trace");
            let text = fs::read_to_string(&path).unwrap_or_default();
            fs::remove_file(&path).ok();
            text.lines().map(str::to_owned).collect()
        }

        /// Engine files.
        fn engines(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(self.sandbox.path("cache/engines")).into_iter().flatten().flatten();
            let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
            files.retain(|path| path.extension().is_some_and(|extension| extension == "engine"));
            files.sort();
            files
        }
    }

    fn count(trace: &[String], line: &str) -> usize {
        trace.iter().filter(|found| *found == line).count()
    }

    /// Everything that was made is destroyed, but for the process's one runtime; contexts before engines, what a
    /// configuration refers to after it.
    #[track_caller]
    fn assert_in_order(trace: &[String]) {
        let made = |what: &str| count(trace, &format!("+{what}"));
        let gone = |what: &str| count(trace, &format!("-{what}"));
        for what in [
            "IBuilder",
            "INetworkDefinition",
            "IBuilderConfig",
            "IParser",
            "IOptimizationProfile",
            "ITimingCache",
            "IHostMemory",
            "ICudaEngine",
            "IExecutionContext",
            "IEngineInspector",
        ] {
            assert_eq!(made(what), gone(what), "{what}: {trace:?}");
        }
        assert!(made("IRuntime") <= 1 && gone("IRuntime") == 0);
        let last = |line: &str| trace.iter().rposition(|found| found == line);
        let first = |line: &str| trace.iter().position(|found| found == line);
        if made("IExecutionContext") > 0 {
            assert!(last("-IExecutionContext") < last("-ICudaEngine"), "{trace:?}");
        }
        if made("ITimingCache") > 0 {
            assert!(first("-IBuilderConfig") < first("-ITimingCache"), "{trace:?}");
            assert!(first("-IParser") < first("-INetworkDefinition"), "{trace:?}");
        }
    }

    #[test]
    fn engines_are_built_once_and_run() {
        let Some(bench) = Bench::new() else { return };
        let assert = bench.build(&["--workspace-mib", "64", "--json"], &[]).code(0);
        let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        assert_eq!(report["engines"].as_array().unwrap().len(), 2);
        assert!(report["engines"].as_array().unwrap().iter().all(|engine| engine["built"] == true));
        let trace = bench.trace();
        assert_in_order(&trace);
        assert_eq!((count(&trace, "built"), count(&trace, "workspace 67108864")), (2, 2));
        assert_eq!(count(&trace, "clear flag 6"), 2, "TF32 is off");
        // The second build takes the timings of the first.
        assert_eq!((count(&trace, "timings "), count(&trace, "timings timed;")), (1, 1));
        assert_eq!(bench.engines().len(), 2);
        // Again: nothing to do.
        bench.build(&[], &[]).code(0).stderr("").stdout(predicate::str::contains("there already"));
        assert_eq!(count(&bench.trace(), "built"), 0);
        bench.build(&["--force"], &[]).code(0).stderr(predicate::str::contains("as asked"));
        assert_eq!(count(&bench.trace(), "built"), 2);
        // Run.
        bench.run(&["--backend", "tensorrt", "--out", "out"], &[]).code(0);
        let trace = bench.trace();
        assert_in_order(&trace);
        assert_eq!((count(&trace, "built"), count(&trace, "+IExecutionContext")), (0, 2));
        let summary = read_json(&bench.sandbox.path("out/summary.json"));
        assert_eq!(summary["backend"]["name"], "tensorrt");
        assert_eq!((&summary["precision"], &summary["machine"]["gpu"]), (&"fp16".into(), &"Fake Orin".into()));
        assert_eq!(assert_whole(&bench.sandbox.path("out")), Some(4));
        // Where the stages ran: on the GPU, from the third frame on as a graph; on the CPU when asked; step by step, which is
        // said once, where there can be no graph.
        let stages_on = |summary: &serde_json::Value| {
            ["device_frames", "graph_frames"].map(|key| summary["stages_on"][key].as_u64().unwrap())
        };
        assert_eq!(stages_on(&summary), [4, 2]);
        let json = |more: &[&str], variables: &[(&str, &str)]| {
            let usual = ["--backend", "tensorrt", "--save", "none", "--json"];
            let assert = bench.run(&[&usual, more].concat(), variables).code(0);
            assert_in_order(&bench.trace());
            let summary: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
            (stages_on(&summary), String::from_utf8_lossy(&assert.get_output().stderr).into_owned())
        };
        let clip = shipped_clip().display().to_string();
        let bench_of = ["bench", &clip, "--model=tiny-model", "--precision=fp16", "--backend=tensorrt", "--frames=4"];
        let words = predicate::str::contains("preprocess to refine on the GPU for 4 frames");
        bench.hsg(&bench_of, &[]).code(0).stdout(words);
        bench.trace();
        let (on, _) = json(&["--host-stages"], &[]);
        assert_eq!(on, [0, 0]);
        let (on, words) = json(&[], &[("FAKE_TENSORRT_FAIL", "capture")]);
        assert_eq!(on, [4, 0]);
        assert_eq!(words.matches("no CUDA graph, frames are started step by step").count(), 1, "{words}");
        // `auto` takes what is built, and nothing else.
        bench
            .run(&["--save", "none"], &[])
            .code(0)
            .stderr(predicate::str::contains("its engines of this model are built"));
        let words = predicate::str::contains("cpu (rten").and(predicate::str::contains("hsg build --precision fp32"));
        bench.run(&["--save", "none", "--precision=fp32"], &[]).code(2);
        let clip = shipped_clip().display().to_string();
        let arguments = ["run", &clip, "--model", "tiny-model", "--frames", "2", "--save", "none"];
        bench.hsg(&arguments, &[]).code(0).stderr(words);
        // What is in an engine, here and elsewhere.
        let engine = bench.engines()[0].display().to_string();
        let here = predicate::str::contains("loads here  yes").and(predicate::str::contains("fake layer"));
        bench.hsg(&["inspect", &engine], &[]).code(0).stdout(here);
        let words = predicate::str::contains("backend tensorrt     ok       TensorRT 11")
            .and(predicate::str::contains("frames stay on the GPU"));
        bench.hsg(&["doctor"], &[]).stdout(words);
    }

    /// Frames of a camera's format stay as they are where the stages run on the GPU, and are converted where they do not. What is
    /// found, and the picture in the overlay, is what their RGB gives.
    #[test]
    fn frames_of_cameras_are_not_converted_for_the_gpu() {
        let Some(bench) = Bench::new() else { return };
        bench.build(&[], &[]).code(0);
        let size = ImageSize::new(96, 64);
        for (name, format) in
            [("YUYV", PixelFormat::Yuyv8(YuvColors::default())), ("NV12", PixelFormat::Nv12(YuvColors::default()))]
        {
            let (mut as_they_are, mut converted) = (Vec::new(), Vec::new());
            for index in 0..6u32 {
                let mut frame = Frame::black(size, format);
                for (i, byte) in frame.pixels.iter_mut().enumerate() {
                    *byte = (120.0 + 90.0 * (i as f32 * 0.013 + index as f32 * 0.1).sin()) as u8;
                }
                let mut rgb = Frame::black(size, PixelFormat::Rgb8);
                frame_to_rgb(&frame, &mut rgb).unwrap();
                as_they_are.extend(frame.pixels);
                converted.extend(rgb.pixels);
            }
            let run = |out: &str, layout: &str, more: &[&str], bytes: &[u8]| {
                let source = format!("raw:96x64:{layout}?rate=25");
                let usual = ["run", &source, "--model", "tiny-model", "--precision", "fp16", "--backend", "tensorrt"];
                let arguments = [&usual[..], &["--out", out, "--save", "overlay,labels", "--force"], more].concat();
                let command = bench.std_command(&arguments, &[]);
                assert_cmd::Command::from_std(command).write_stdin(bytes.to_vec()).assert().code(0);
                let summary = read_json(&bench.sandbox.path(out).join("summary.json"));
                ["device_frames", "unconverted_frames"].map(|key| summary["stages_on"][key].as_u64().unwrap())
            };
            assert_eq!(run("kept", name, &[], &as_they_are), [6, 6], "{name}");
            assert_eq!(run("rgb", "RGB24", &[], &converted), [6, 0], "{name}");
            assert_eq!(run("host", name, &["--host-stages"], &as_they_are), [0, 0], "{name}");
            assert_eq!(run("host-rgb", "RGB24", &["--host-stages"], &converted), [0, 0], "{name}");
            for (a, b) in [("kept", "rgb"), ("host", "host-rgb")] {
                for part in ["overlay", "labels"] {
                    let (a, b) = (bench.sandbox.path(a).join(part), bench.sandbox.path(b).join(part));
                    let names = files(&a);
                    assert!(!names.is_empty() && names == files(&b), "{name}");
                    for file in names {
                        assert!(fs::read(a.join(&file)).unwrap() == fs::read(b.join(&file)).unwrap(), "{name}: {file}");
                    }
                }
            }
        }
    }

    /// Threads that wait for the GPU spin or sleep: the driver's business, unless it is told.
    #[test]
    fn threads_sleep_while_they_wait_if_asked() {
        let Some(bench) = Bench::new() else { return };
        bench.build(&[], &[]).code(0);
        let trace = bench.sandbox.path("cuda-trace");
        let words = |value: &str| {
            let variables = [("HSG_CUDA_WAIT", value), ("FAKE_CUDA_TRACE", trace.to_str().unwrap())];
            bench.run(&["--backend", "tensorrt", "--save", "none"], &variables).code(0);
            let text = fs::read_to_string(&trace).unwrap();
            fs::remove_file(&trace).unwrap();
            ["a context", "an event"].map(|what| text.contains(&format!("{what} that is waited for asleep")))
        };
        assert_eq!(words("auto"), [false, false]);
        assert_eq!(words(""), [false, false]);
        assert_eq!(words("block"), [true, true]);
        let assert = bench.run(&["--backend", "tensorrt", "--save", "none"], &[("HSG_CUDA_WAIT", "spin")]);
        assert_refused(assert, &["HSG_CUDA_WAIT", "expected `auto` or `block`", "`spin`"]);
    }

    /// Several sources share runs of the embedding network, and get what each gets for itself.
    #[test]
    fn several_sources_share_runs() {
        let Some(bench) = Bench::new() else { return };
        bench.build(&["--max-batch", "33"], &[]).code(2).stderr(predicate::str::contains("1 to 32"));
        let assert = bench.build(&["--max-batch", "3", "--json"], &[]).code(0);
        let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        let batches: Vec<_> = report["engines"].as_array().unwrap().iter().map(|it| it["max_batch"].clone()).collect();
        assert_eq!(batches, [3, 1]);
        let trace = bench.trace();
        assert_eq!(count(&trace, "profile 4 1 3 8 8 to 4 3 3 64 96 for 4 3 3 64 96"), 1, "{trace:?}");
        let clip = shipped_clip().display().to_string();
        let run = |sources: usize, out: &str, more: &[&str]| {
            let clips = vec![&*clip; sources];
            let usual = ["--model=tiny-model", "--precision=fp16", "--backend=tensorrt", "--frames=12", "--out", out];
            let assert = bench.hsg(&[&["run"], &clips[..], &usual, &["--save=frames,labels"], more].concat(), &[]);
            let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
            assert.code(0);
            (bench.trace(), text)
        };
        // Two of three, because that engine is there.
        let (trace, text) = run(2, "two", &["--batch=2", "--batch-wait-millis=1000"]);
        assert!(text.contains("the one for 3 frames at once is there and taken"), "{text}");
        assert_in_order(&trace);
        assert_eq!(count(&trace, "built"), 0);
        assert!(count(&trace, "run of 2") >= 6 && count(&trace, "run of 3") == 0, "{trace:?}");
        // One context for the embedding network, one each for grouping.
        assert_eq!(count(&trace, "+IExecutionContext"), 3);
        let (alone, text) = run(2, "alone", &[]);
        assert!(text.contains("3 frames at once") && count(&alone, "run of 2") == 0, "{text}");
        assert_eq!(count(&alone, "+IExecutionContext"), 4);
        let names: Vec<_> =
            fs::read_dir(bench.sandbox.path("two")).unwrap().flatten().map(|it| it.file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        for name in names.iter().map(|name| name.to_str().unwrap()) {
            let of = |out: &str, file: &str| bench.sandbox.path(&format!("{out}/{name}/{file}"));
            assert_eq!(assert_whole(&of("two", "")), Some(12));
            let labels = ["two", "alone"].map(|out| {
                let levels = (0..3).map(|level| of(out, &format!("labels/level{level}")));
                let files = levels.flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
                files
                    .map(|file| (file.path().file_name().unwrap().to_owned(), fs::read(file.path()).unwrap()))
                    .collect()
            });
            let [together, each]: [Vec<_>; 2] = labels.map(|mut files: Vec<_>| {
                files.sort();
                files
            });
            assert_eq!(together.len(), 36);
            assert!(together == each, "{name}: other labels");
            let batches = &read_json(&of("two", "summary.json"))["batches"];
            let frames = |size: &str| batches["frames_by_size"][size].as_u64().unwrap_or(0);
            assert!(frames("1") + frames("2") == 12 && frames("2") >= 6, "{batches}");
            assert!(batches["mean_size"].as_f64().is_some_and(|mean| mean >= 1.5), "{batches}");
            assert!(read_json(&of("alone", "summary.json"))["batches"].is_null());
        }
        // Four want an engine of their own, which is built beside that of three.
        let (trace, text) = run(4, "four", &["--batch=4"]);
        assert_in_order(&trace);
        assert_eq!(count(&trace, "built"), 1, "{text}");
        assert!(text.contains("in fp16 for 4 frames at once: there is none yet"), "{text}");
        assert!(bench.engines().iter().any(|path| path.to_string_lossy().contains("-batch4-")));
        assert_eq!(bench.engines().len(), 3);
        // In real time, too, and on a stream that is lost to none.
        let arguments = ["run", &format!("{clip}?rate=60"), &format!("{clip}?rate=25"), "--realtime", "--frames=20"];
        let more = ["--model=tiny-model", "--precision=fp16", "--backend=tensorrt", "--save=none", "--json"];
        let assert = bench.hsg(&[&arguments[..], &more].concat(), &[]).code(0);
        let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        for (name, summary) in report["sources"].as_object().unwrap() {
            let by_size = summary["batches"]["frames_by_size"].as_object().unwrap();
            let frames: u64 = by_size.values().filter_map(serde_json::Value::as_u64).sum();
            assert_eq!(Some(frames), summary["frames"].as_u64(), "{name}");
        }
        // `auto` builds nothing: it takes the engine for one frame where there is none for five.
        bench.build(&["--force"], &[]).code(0);
        bench.trace();
        let usual = [&["run", "--batch=5"][..], &[&*clip; 5], &["--frames=2"], &more].concat();
        let usual: Vec<&str> = usual.into_iter().filter(|argument| !argument.starts_with("--backend")).collect();
        let assert = bench.hsg(&usual, &[]).code(0).stderr(predicate::str::contains("`hsg build --max-batch 5`"));
        let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        let summaries = report["sources"].as_object().unwrap().values();
        for summary in summaries {
            assert_eq!((&summary["backend"]["name"], &summary["batches"]), (&"tensorrt".into(), &().into()));
        }
        // Failures as ever, and nobody hangs.
        for fail in [("FAKE_TENSORRT_FAIL", "enqueue"), ("FAKE_TENSORRT_FAIL", "context"), ("FAKE_CUDA_FAIL", "copy")] {
            let arguments = [&["run", "--batch=2", &clip, &clip][..], &more].concat();
            let assert = bench.hsg(&arguments, &[fail]).code(2);
            let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
            assert!(!text.contains("panicked"), "{fail:?}: {text}");
        }
    }

    /// After an update, on another GPU, damaged: the reason once, and a new engine.
    #[test]
    fn a_stale_foreign_or_damaged_engine_is_built_again() {
        let Some(bench) = Bench::new() else { return };
        bench.build(&[], &[]).code(0);
        bench.trace();
        let run =
            |variables: &[(&str, &str)]| bench.run(&["--backend", "tensorrt", "--save", "none"], variables).code(0);
        run(&[]).stderr(predicate::str::contains("engine embedding").not());
        assert_eq!(count(&bench.trace(), "built"), 0);
        let newer = [("FAKE_TENSORRT_VERSION", "119900")];
        let text = String::from_utf8_lossy(&run(&newer).get_output().stderr).into_owned();
        assert_eq!(text.matches("now it is 11.99.0").count(), 2, "once for each network: {text}");
        assert_eq!(count(&bench.trace(), "built"), 2);
        run(&newer).stderr(predicate::str::contains("not used").not());
        assert_eq!(count(&bench.trace(), "built"), 0);
        // Another GPU has engines of its own; a copied one is not taken for them.
        let thor = [("FAKE_CUDA_NAME", "Fake Thor"), newer[0]];
        for path in bench.engines() {
            fs::copy(&path, path.to_string_lossy().replace("fake-orin", "fake-thor")).unwrap();
        }
        run(&thor).stderr(predicate::str::contains("Fake Orin").and(predicate::str::contains("Fake Thor")));
        assert_eq!((count(&bench.trace(), "built"), bench.engines().len()), (2, 4));
        // Cut by a byte.
        for path in bench.engines() {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        }
        run(&thor).stderr(predicate::str::contains("no whole engine file"));
        assert_eq!(count(&bench.trace(), "built"), 2);
        // One for all GPUs serves both.
        bench.build(&["--hardware-compatible"], &newer).code(0);
        let trace = bench.trace();
        assert_eq!((count(&trace, "built"), count(&trace, "hardware compatible 1")), (2, 2));
        for path in bench.engines().iter().filter(|path| path.to_string_lossy().contains("fake-")) {
            fs::remove_file(path).unwrap();
        }
        run(&thor);
        assert_eq!(count(&bench.trace(), "built"), 0);
    }

    /// What TensorRT or the driver refuses is an error with its words and a remedy, and what was made is destroyed.
    #[test]
    fn failures_have_the_words_of_tensorrt_and_a_remedy() {
        let Some(bench) = Bench::new() else { return };
        let clip = shipped_clip().display().to_string();
        let arguments =
            ["run", &clip, "--model", "tiny-model", "--precision", "fp16", "--frames", "4", "--backend", "tensorrt"];
        let arguments = [&arguments[..], &["--save", "none"]].concat();
        let fails = |variable: (&str, &str), words: &[&str]| {
            let assert = bench.hsg(&arguments, &[variable]).code(2).stdout("");
            let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
            for word in words {
                assert!(text.contains(word), "{variable:?}: `{word}` is not in: {text}");
            }
            assert!(!text.contains("panicked"), "{text}");
            assert_in_order(&bench.trace());
        };
        // While an engine is built: nothing is left.
        for (what, words) in [
            ("parse", &["embedding.fp32.onnx", "node 7: fake: this operator is unknown"][..]),
            ("build", &["fake: insufficient workspace", "--workspace-mib"]),
            ("load", &["does not load its engine", "fake: these bytes"]),
        ] {
            fails(("FAKE_TENSORRT_FAIL", what), words);
            assert!(bench.engines().is_empty(), "{what}");
        }
        bench.build(&[], &[]).code(0);
        bench.trace();
        // An engine of the cache that TensorRT does not load is built again once, then that is the error.
        fails(("FAKE_TENSORRT_FAIL", "load"), &["building it again", "does not load its engine"]);
        for (variable, words) in [
            (("FAKE_TENSORRT_FAIL", "context"), &["no execution context", "memory full", "fake: out of memory"][..]),
            (("FAKE_TENSORRT_FAIL", "shape"), &["does not take the shape"]),
            (("FAKE_TENSORRT_FAIL", "enqueue"), &["the run failed", "fake: the device has no time"]),
            (("FAKE_CUDA_FAIL", "alloc"), &["could not allocate", "out of memory", "end other programs"]),
            (("FAKE_CUDA_FAIL", "copy"), &["unspecified launch failure"]),
        ] {
            fails(variable, words);
        }
    }

    /// TensorRT has one log for the process: streams that fail at the same time must not tell each other's troubles.
    #[test]
    fn an_error_has_the_words_of_its_own_thread() {
        const TEST: &str = "stand_ins::an_error_has_the_words_of_its_own_thread";
        tests::stand_ins::with_stand_ins(TEST, &[], |folder| {
            let manifest_of = |engine: &[u8]| {
                let model = ModelFolder::open(&tiny_model()).unwrap();
                let network = prepare(&model, NetworkKind::Grouping, Precision::Fp16, 10).unwrap();
                let identity = identity_of(&model, NetworkKind::Grouping, &network, &found(), false);
                EngineManifest::new(identity, engine, BuildRecord::default())
            };
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let engine = format!("engine of thread {thread}\n").into_bytes();
                    let path = folder.join(format!("{thread}.engine"));
                    fs::write(&path, encode(&manifest_of(&engine), &engine).unwrap()).unwrap();
                    scope.spawn(move || {
                        for _ in 0..25 {
                            let text = runtime::backend::tensorrt::layers(&path).unwrap_err().to_string();
                            let own = format!("(fake: these bytes are no engine of mine: engine of thread {thread})");
                            assert!(text.contains(&own), "thread {thread}: {text}");
                        }
                    });
                }
            });
        });
    }

    #[test]
    fn ctrl_c_stops_a_build_and_leaves_nothing() {
        let Some(bench) = Bench::new() else { return };
        // A minute, if nobody stopped it.
        let mut started =
            Started::new(bench.std_command(&["build", "--model", "tiny-model"], &[("FAKE_TENSORRT_SLOW", "60000")]));
        let trace = bench.sandbox.path("trace");
        started.wait_until("a build", || fs::read_to_string(&trace).is_ok_and(|text| text.contains("+ITimingCache")));
        started.send("INT");
        let output = started.finish();
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
        let trace = bench.trace();
        assert_eq!((count(&trace, "stopped"), count(&trace, "built")), (1, 0));
        assert_in_order(&trace);
        assert!(bench.engines().is_empty());
    }

    #[test]
    fn builders_in_two_processes_build_once() {
        let Some(bench) = Bench::new() else { return };
        let start =
            || Started::new(bench.std_command(&["build", "--model", "tiny-model"], &[("FAKE_TENSORRT_SLOW", "400")]));
        let mut both = [start(), start()];
        for started in &mut both {
            let output = started.finish();
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(count(&bench.trace(), "built"), 2, "one for each network");
    }

    /// A build replaces the file of timings by what it read and measured; what others wrote meanwhile must stay.
    #[test]
    fn builds_that_end_together_keep_each_others_timings() {
        let Some(bench) = Bench::new() else { return };
        let timings = bench.sandbox.path("timings");
        let usual = ["build", "--model=tiny-model", "--force", "--timing-cache", timings.to_str().unwrap()];
        let start = |more: &str, timed: &str, slow: &str| {
            let variables = [("FAKE_TENSORRT_SLOW", slow), ("FAKE_TENSORRT_TIMED", timed)];
            Started::new(bench.std_command(&[&usual[..], &[more]].concat(), &variables))
        };
        // Written after a build has read it.
        let mut one = start("--max-batch=1", "one", "2000");
        let trace = bench.sandbox.path("trace");
        let has = |line: &str| fs::read_to_string(&trace).is_ok_and(|text| text.contains(line));
        one.wait_until("a build", || has("+ITimingCache"));
        fs::write(&timings, "elsewhere;").unwrap();
        assert_eq!(one.finish().status.code(), Some(0));
        assert_eq!(fs::read_to_string(&timings).unwrap(), "elsewhere;one;one;");
        let trace = bench.trace();
        assert_in_order(&trace);
        assert_eq!(count(&trace, "timings combined"), 1);
        // Two processes that begin and end together, of engines that neither waits for.
        for _ in 0..3 {
            fs::write(&timings, "elsewhere;").unwrap();
            let mut both = [start("--max-batch=2", "two", "300"), start("--max-batch=3", "three", "300")];
            for started in &mut both {
                let output = started.finish();
                assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            }
            let text = fs::read_to_string(&timings).unwrap();
            assert!(["elsewhere;", "two;", "three;"].iter().all(|entry| text.contains(entry)), "{text}");
        }
    }

    /// Beside a stream: it begins on the CPU and moves over; when building fails, it stays.
    #[test]
    fn a_stream_begins_on_the_cpu_while_engines_are_built() {
        let Some(bench) = Bench::new() else { return };
        let clip = shipped_clip().display().to_string();
        let clip = format!("{clip}?rate=25");
        let arguments = [
            "run",
            &clip,
            "--realtime",
            "--model",
            "tiny-model",
            "--precision",
            "fp16",
            "--save",
            "none",
            "--backend",
            "tensorrt",
            "--build-beside",
        ];
        let words =
            predicate::str::contains("until the engines").and(predicate::str::contains("runs on them from now on"));
        bench.hsg(&arguments, &[]).code(0).stderr(words);
        let trace = bench.trace();
        assert_eq!(count(&trace, "built"), 2);
        assert_in_order(&trace);
        // Now they are there: nothing is built.
        bench.hsg(&arguments, &[]).code(0).stderr(predicate::str::contains("until the engines").not());
        assert_eq!(count(&bench.trace(), "built"), 0);
        fs::remove_dir_all(bench.sandbox.path("cache")).unwrap();
        let words = predicate::str::contains("the stream stays on the CPU").and(predicate::str::contains("workspace"));
        bench.hsg(&arguments, &[("FAKE_TENSORRT_FAIL", "build")]).code(0).stderr(words);
        assert_in_order(&bench.trace());
        // int8 needs a receipt here as well, unless told otherwise.
        let folder = int8_model(&bench.sandbox.path("int8"));
        let int8 = |more: &[&str]| {
            let model = folder.path().display().to_string();
            let beside = ["run", &clip, "--model", &model, "--precision", "int8", "--frames", "4", "--save", "none"];
            bench.hsg(&[&beside, &["--backend", "tensorrt", "--build-beside"][..], more].concat(), &[])
        };
        int8(&[]).code(2).stderr(predicate::str::contains("receipt").and(predicate::str::contains("allow-unverified")));
        int8(&["--allow-unverified"]).code(0);
    }
}

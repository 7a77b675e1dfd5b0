//! Every backend computes what the embedded one computes. A backend whose library is not here is skipped, in words.

use std::path::Path;
use std::sync::Arc;

use runtime::backend::cpu::CpuBackend;
use runtime::backend::onnxruntime::{OnnxRuntimeBackend, look};
use runtime::backend::{Backend, BackendErrorKind, Engine, EngineOptions, TensorBuffer};
use tests::folders::tiny_model;

const OPTIONS: EngineOptions = EngineOptions { num_threads: 2 };

/// ONNX Runtime, if it is here.
fn onnxruntime() -> Option<OnnxRuntimeBackend> {
    match OnnxRuntimeBackend.probe() {
        Ok(info) => {
            println!("{}, {}", info.version, look().unwrap().1.display());
            Some(OnnxRuntimeBackend)
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn zoo_model() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo/camvid-r18")
}

/// Numbers without a pattern, −1 to 1.
fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// All outputs of a network for inputs of its own shapes; axes of any length are `free`.
fn run(engine: Arc<dyn Engine>, free: usize, times: usize) -> Vec<TensorBuffer> {
    let (input_infos, output_infos) = (engine.inputs().to_vec(), engine.outputs().to_vec());
    let inputs: Vec<(String, Vec<usize>, Vec<f32>)> = (0u32..)
        .zip(&input_infos)
        .map(|(seed, info)| {
            let shape: Vec<usize> = info.shape.iter().map(|axis| axis.unwrap_or(free)).collect();
            let mut data = values(shape.iter().product(), seed + 1);
            // Which slots are in use: all but every third.
            if info.name == "valid" {
                data.iter_mut().enumerate().for_each(|(i, value)| *value = f32::from(i % 3 != 2));
            }
            // Features are unit vectors, about; positions are weights that add up to 1 for each axis.
            let scale = match info.name.as_str() {
                "features" => (3.0 / shape[1] as f32).sqrt(),
                "positions" => 2.0 / shape[1] as f32,
                _ => 1.0,
            };
            data.iter_mut().for_each(|value| *value *= scale);
            (info.name.clone(), shape, data)
        })
        .collect();
    let mut buffers = vec![TensorBuffer::default(); output_infos.len()];
    let mut session = engine.session().unwrap();
    for _ in 0..times {
        let inputs: Vec<_> = inputs.iter().map(|(name, shape, data)| (name.as_str(), &shape[..], &data[..])).collect();
        let mut outputs: Vec<_> = output_infos.iter().map(|info| info.name.as_str()).zip(&mut buffers).collect();
        session.run(&inputs, &mut outputs).unwrap();
    }
    buffers
}

#[test]
fn onnxruntime_computes_what_the_embedded_backend_computes() {
    let Some(onnxruntime) = onnxruntime() else { return };
    for model in [tiny_model(), zoo_model()] {
        for file in ["embedding.fp32.onnx", "grouping.fp32.onnx"] {
            let path = model.join(file);
            let expected = CpuBackend::default().load(&path, OPTIONS).unwrap();
            let got = onnxruntime.load(&path, OPTIONS).unwrap();
            let names = |engine: &Arc<dyn Engine>| -> Vec<String> {
                engine.inputs().iter().chain(engine.outputs()).map(|tensor| tensor.name.clone()).collect()
            };
            assert_eq!(names(&expected), names(&got), "{}", path.display());
            let (expected, got) = (run(expected, 64, 1), run(got, 64, 2));
            for (expected, got) in expected.iter().zip(&got) {
                assert_eq!(expected.shape, got.shape, "{}", path.display());
                let largest = expected.data.iter().zip(&got.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // Outputs that are no unit vectors are larger than 1, and so are their last digits.
                let scale = expected.data.iter().fold(1.0f32, |scale, value| scale.max(value.abs()));
                assert!(
                    largest < 1e-4 * scale && got.data.iter().all(|v| v.is_finite()),
                    "{}: {largest}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn onnxruntime_says_what_is_wrong() {
    let Some(onnxruntime) = onnxruntime() else { return };
    let path = tiny_model().join("embedding.fp32.onnx");
    let engine = onnxruntime.load(&path, OPTIONS).unwrap();
    let mut session = Arc::clone(&engine).session().unwrap();
    let mut buffer = TensorBuffer::default();
    let mut attempt = |input: &str, shape: &[usize], len: usize, output: &str| {
        let error = session.run(&[(input, shape, &vec![0.0; len])], &mut [(output, &mut buffer)]).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Run);
        assert!(error.to_string().contains("embedding.fp32.onnx"), "{error}");
        error.to_string()
    };
    let image = [1, 3, 64, 96];
    assert!(attempt("picture", &image, 3 * 64 * 96, "embedding").contains("no input `picture`, only image"));
    assert!(attempt("image", &image, 3 * 64 * 96, "features").contains("no output `features`, only embedding"));
    assert!(attempt("image", &image, 17, "embedding").contains("17 values, expected 18432"));
    assert!(attempt("image", &[1, 4, 64, 96], 4 * 64 * 96, "embedding").contains("the run failed"));

    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for (name, bytes) in [("cut.onnx", &bytes[..bytes.len() / 2]), ("empty.onnx", &[]), ("text.onnx", b"not a network")]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = onnxruntime.load(&path, OPTIONS).err().unwrap();
        assert_eq!(error.kind(), BackendErrorKind::Load, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = onnxruntime.load(&folder.path().join("missing.onnx"), OPTIONS).err().unwrap();
    assert!(error.to_string().contains("missing.onnx"), "{error}");
}

//! Times of the embedding network alone, in every form and on every backend that is here.

use std::time::Instant;

use models::manifest::{ModelFolder, Precision};
use runtime::backend::onnxruntime::OnnxRuntimeBackend;
use runtime::backend::{Backend, EngineOptions, Session, TensorBuffer, cpu::CpuBackend};
use segcore::image::Frame;
use segcore::preprocess::Preprocessor;

use super::Forms;
use super::receipt::SpeedReport;
use crate::settings::ReportSettings;

/// Runs before times count.
const WARM_UP: usize = 3;
/// Runs that count.
const ROUNDS: usize = 20;

/// Takes times on one frame; the forms take turns, so that what else the machine does meets all of them.
///
/// # Errors
/// When a network cannot be loaded or run.
pub(super) fn measure(
    settings: &ReportSettings,
    folder: &ModelFolder,
    forms: &Forms,
    frame: &Frame,
) -> anyhow::Result<Vec<SpeedReport>> {
    let manifest = folder.manifest();
    let mut preprocessor = Preprocessor::new(&manifest.preprocessing, frame.size)?;
    let padded = preprocessor.plan().padded;
    let mut input = vec![0.0; 3 * padded.num_pixels()];
    preprocessor.run(&frame.view(), &mut input)?;
    let shape = [1, 3, padded.height, padded.width];
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::<CpuBackend>::default()];
    if OnnxRuntimeBackend.probe().is_ok() {
        backends.push(Box::new(OnnxRuntimeBackend));
    }
    let threads = if settings.model.threads > 1 { vec![1, settings.model.threads] } else { vec![1] };
    let mut reports = Vec::new();
    for backend in &backends {
        let info = backend.probe()?;
        for &num_threads in &threads {
            let mut sessions: Vec<(Precision, Box<dyn Session>, Vec<f64>)> = Vec::new();
            for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
                let of = if precision == Precision::Fp16 { &forms.fp16 } else { folder };
                if let Some(path) = of.embedding_path(precision) {
                    let session = backend.load(&path, EngineOptions { num_threads })?.session()?;
                    sessions.push((precision, session, Vec::new()));
                }
            }
            let mut output = TensorBuffer::default();
            for round in 0..WARM_UP + ROUNDS {
                for (_, session, millis) in &mut sessions {
                    let start = Instant::now();
                    session.run(
                        &[(&manifest.tensors.image, &shape, &input)],
                        &mut [(&manifest.tensors.embedding, &mut output)],
                    )?;
                    if round >= WARM_UP {
                        millis.push(start.elapsed().as_secs_f64() * 1e3);
                    }
                }
            }
            let mut fp32 = None;
            for (precision, _, mut millis) in sessions {
                millis.sort_by(f64::total_cmp);
                let (min, median) =
                    (millis.first().copied().unwrap_or(0.0), millis.get(ROUNDS / 2).copied().unwrap_or(0.0));
                let yardstick = *fp32.get_or_insert(median);
                reports.push(SpeedReport {
                    backend: info.name.to_owned(),
                    version: info.version.clone(),
                    threads: num_threads,
                    precision: precision.to_string(),
                    input: [padded.width, padded.height],
                    millis_min: min,
                    millis_median: median,
                    times_fp32: yardstick / median.max(1e-9),
                });
            }
        }
    }
    Ok(reports)
}

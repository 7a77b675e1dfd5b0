//! What another quantiser needs to be measured beside ours: the fp32 embedding network as a plain file, and the network's
//! inputs for the frames of a table. `tests/fixtures/quantization/stock.py` reads them; docs/benchmarks/precision.md has the
//! commands.

use std::error::Error;
use std::path::PathBuf;

use calibration::frames::{FrameSource, frame_name};
use calibration::table::Table;
use models::manifest::{ModelFolder, Precision};
use models::onnx::{Storage, read, write};
use segcore::preprocess::Preprocessor;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, model, table, sources @ ..] = arguments.as_slice() else {
        return Err("usage: stock_inputs OUT MODEL TABLE.json SOURCE...".into());
    };
    let out = PathBuf::from(out);
    std::fs::create_dir_all(&out)?;
    let folder = ModelFolder::open(model.as_ref())?;
    let table = Table::from_json(&std::fs::read_to_string(table)?)?;
    table.belongs_to(folder.model_hash())?;
    let path = folder.embedding_path(Precision::Fp32).ok_or("the model has no fp32 network")?;
    let (graph, weights) = read(&std::fs::read(&path)?, &path)?;
    // Weights as initialisers, without the casts that keep the shipped file small: what stock tools expect.
    std::fs::write(out.join("embedding.onnx"), write(&graph, &weights, Storage::Full)?)?;
    let spec = &folder.manifest().preprocessing;
    let mut count = 0;
    for source in sources {
        let source = FrameSource::open(source, u64::MAX, spec.input)?;
        source.read(u64::MAX, &|| true, |frame| {
            if table.frames.contains(&frame_name(&source.name, frame)) {
                let mut preprocessor =
                    Preprocessor::new(spec, frame.size).map_err(calibration::CalibrationError::other)?;
                let padded = preprocessor.plan().padded;
                let mut input = vec![0f32; 3 * padded.num_pixels()];
                preprocessor.run(&frame.view(), &mut input).map_err(calibration::CalibrationError::other)?;
                let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
                let name = format!("{count:04}.{}x{}.f32", padded.height, padded.width);
                models::files::write_atomically(&out.join(name), &bytes)?;
                count += 1;
            }
            Ok(true)
        })?;
    }
    println!("{count} of {} frames of the table", table.frames.len());
    Ok(())
}

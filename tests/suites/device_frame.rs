//! A frame's whole way on the GPU (`runtime/src/backend/tensorrt/frame.rs`), against the stand-ins for TensorRT and CUDA: the same
//! engines, the kernels' own sources compiled for the host, work that is done only when somebody waits for it. The CPU's stages
//! are what it must equal. What a real GPU adds is for `cargo xtask board-check`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use models::manifest::{Manifest, ModelFolder, Precision};
use retrieval::{Bank, UserBank, UserOrigin};
use runtime::backend::cuda::{Buffer, DeviceBank};
use runtime::backend::tensorrt::frame::DeviceFrame;
use runtime::backend::{BackendChoice, BackendErrorKind};
use runtime::error::PipelineError;
use runtime::pipeline::mask::Mask;
use runtime::pipeline::publish::Sink;
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::{
    self, Compute, Control, Deployment, DeploymentSpec, PipelineSpec, Placement, Processor, ProcessorSpec, Progress,
    Resolution,
};
use runtime::sink::{LevelSegments, SegmentedFrame, SinkError};
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::image_io::write_gray8;
use segcore::yuv::{YuvColors, YuvMatrix, frame_to_rgb};
use tests::moving::MovingStreet;
use tests::networks::model_with_bank;
use tests::pictures;
use tests::stand_ins::{fail_file, with_stand_ins};

fn deployment(folder: &Path) -> Arc<Deployment> {
    let spec = DeploymentSpec {
        backend: BackendChoice::TensorRt,
        precision: Precision::Fp16,
        int8_float: false,
        num_threads: 2,
        batching: Default::default(),
    };
    let model = model_with_bank(folder);
    Arc::new(Deployment::load(ModelFolder::open(&model).unwrap(), spec).unwrap())
}

fn spec(placement: Placement) -> ProcessorSpec {
    ProcessorSpec { placement, tracking: true, ..ProcessorSpec::default() }
}

/// The street of `pictures.rs` at any size; another scene has other colours in other places.
fn draw(frame: &mut Frame, size: ImageSize, format: PixelFormat, index: u32, scene: u32) {
    frame.reshape(size, format);
    frame.index = u64::from(index);
    let picture = pictures::street(index);
    for y in 0..size.height {
        for x in 0..size.width {
            let (column, row) = (x as u32 * pictures::SIZE.0 / size.width as u32, y as u32 * 64 / size.height as u32);
            let at = if scene == 0 { (column, row) } else { (95 - column, 63 - row) };
            let [r, g, b] = picture.get_pixel(at.0, at.1).0;
            let color = if scene == 0 { [r, g, b] } else { [255 - b, 255 - r, 255 - g] };
            put(frame, x, y, color);
        }
    }
}

/// Writes a pixel in the frame's format; of those that share their colour the last one has its way.
fn put(frame: &mut Frame, x: usize, y: usize, [r, g, b]: [u8; 3]) {
    let (format, width, height) = (frame.format, frame.size.width, frame.size.height);
    let row = y * format.row_bytes(width);
    // BT.601, limited: near enough for a test picture, whatever its numbers are said to mean.
    let mix = |red: f32, green: f32, blue: f32, base: f32| {
        (base + red * f32::from(r) + green * f32::from(g) + blue * f32::from(b)).round() as u8
    };
    let luma = mix(0.257, 0.504, 0.098, 16.0);
    let (u, v) = (mix(-0.148, -0.291, 0.439, 128.0), mix(0.439, -0.368, -0.071, 128.0));
    let bytes: &[(usize, u8)] = match format {
        PixelFormat::Gray8 => &[(row + x, g)],
        PixelFormat::Rgb8 => &[(row + 3 * x, r), (row + 3 * x + 1, g), (row + 3 * x + 2, b)],
        PixelFormat::Yuyv8(_) => {
            let pair = row + x / 2 * 4;
            &[(row + 2 * x, luma), (pair + 1, u), (pair + 3, v)]
        }
        PixelFormat::Uyvy8(_) => {
            let pair = row + x / 2 * 4;
            &[(row + 2 * x + 1, luma), (pair, u), (pair + 2, v)]
        }
        PixelFormat::Nv12(_) => {
            let pair = (height + y / 2) * format.row_bytes(width) + x / 2 * 2;
            &[(row + x, luma), (pair, u), (pair + 1, v)]
        }
        other => panic!("{other}"),
    };
    for &(at, byte) in bytes {
        frame.pixels[at] = byte;
    }
}

/// Formats of cameras, with odd meanings among them.
fn camera_formats() -> [PixelFormat; 4] {
    let full_range = YuvColors { matrix: YuvMatrix::Bt601, full_range: true };
    [
        PixelFormat::Yuyv8(YuvColors::default()),
        PixelFormat::Uyvy8(full_range),
        PixelFormat::Nv12(YuvColors::default()),
        PixelFormat::Nv12(YuvColors { matrix: YuvMatrix::Bt709, full_range: false }),
    ]
}

/// What a frame gave.
#[derive(Clone)]
struct Result {
    slots: Vec<u16>,
    cells: Vec<u16>,
    reseeded: Vec<u32>,
    levels: Vec<LevelSegments>,
    is_graph: Option<bool>,
}

fn run(processor: &mut Processor, slot: &mut FrameSlot) -> Result {
    processor.process(slot).unwrap();
    let (segments, reseeded) = processor.segments();
    Result {
        slots: slot.output.slots.clone(),
        cells: segments.labels.clone(),
        reseeded: reseeded.to_vec(),
        levels: slot.output.levels.clone(),
        is_graph: slot.on_device.map(|on_device| on_device.graph),
    }
}

/// A drive of twelve frames, another one, and what was left of the first.
fn drive(processor: &mut Processor, size: ImageSize, format: PixelFormat) -> Vec<Result> {
    let mut slot = FrameSlot::default();
    let scenes = (0..12).map(|index| (index, 0)).chain((0..6).map(|index| (index, 1))).chain((3..7).map(|i| (i, 0)));
    let draw_and_run = |(index, scene)| {
        draw(&mut slot.output.frame, size, format, index, scene);
        run(processor, &mut slot)
    };
    scenes.map(draw_and_run).collect()
}

fn share_of_equal<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len().max(1) as f64
}

/// Sums of floats are taken in another order, so where a cell or pixel is as near to one segment as to another, it may go to
/// the other. Nothing else may differ: where frames begin anew, what is re-seeded, which ids live on, which names are given.
#[test]
fn device_and_host_agree() {
    with_stand_ins("device_and_host_agree", &[], |folder| {
        let deployment = deployment(folder);
        let mut num_reseeded = 0;
        for (name, size, format, resolution, masked) in [
            ("the model's size", (96, 64), PixelFormat::Rgb8, Resolution::Refined, false),
            ("odd sizes, shrunk by more than two", (229, 151), PixelFormat::Rgb8, Resolution::Refined, false),
            ("enlarged, padded", (31, 45), PixelFormat::Rgb8, Resolution::Refined, false),
            ("grey", (97, 61), PixelFormat::Gray8, Resolution::Refined, false),
            ("YUYV", (193, 127), PixelFormat::Yuyv8(YuvColors::default()), Resolution::Refined, false),
            ("NV12", (160, 121), PixelFormat::Nv12(YuvColors::default()), Resolution::Refined, false),
            ("not refined", (160, 120), PixelFormat::Rgb8, Resolution::Nearest, false),
            ("masked", (120, 80), PixelFormat::Rgb8, Resolution::Refined, true),
        ] {
            let size = ImageSize::new(size.0, size.1);
            let [device, host] = [Placement::Auto, Placement::Host].map(|placement| {
                let spec = ProcessorSpec { resolution, ..spec(placement) };
                let mut processor = Processor::new(Arc::clone(&deployment), spec).unwrap();
                if masked {
                    let path = folder.join("mask.png");
                    let kept: Vec<u8> = (0..size.num_pixels()).map(|i| u8::from(i / size.width < 55) * 255).collect();
                    write_gray8(&path, size, &kept).unwrap();
                    processor.set_mask(Mask::read(&path).unwrap());
                }
                drive(&mut processor, size, format)
            });
            let (mut least_cells, mut least_pixels) = (1.0f64, 1.0f64);
            for (index, (device, host)) in device.iter().zip(&host).enumerate() {
                least_cells = least_cells.min(share_of_equal(&device.cells, &host.cells));
                least_pixels = least_pixels.min(share_of_equal(&device.slots, &host.slots));
                assert_eq!(device.reseeded, host.reseeded, "{name}, frame {index}");
                num_reseeded += host.reseeded.len();
                for (level, (a, b)) in device.levels.iter().zip(&host.levels).enumerate() {
                    let at = format!("{name}, frame {index}, level {level}");
                    assert_eq!(a.parents, b.parents, "{at}");
                    for (a, b) in a.segments.iter().zip(&b.segments) {
                        assert_eq!((a.present, a.track_id, a.train_id), (b.present, b.track_id, b.train_id), "{at}");
                        assert!((a.unknown_score - b.unknown_score).abs() < 1e-5, "{at}");
                    }
                }
                assert_eq!((host.is_graph, device.is_graph.is_some()), (None, true));
            }
            println!("{name}: cells {least_cells}, pixels {least_pixels}");
            assert!(least_cells >= 0.97 && least_pixels >= 0.98, "{name}: cells {least_cells}, pixels {least_pixels}");
            // Warm frames: one step by step, from then on as a graph; cuts do not change that.
            let graphs: Vec<bool> = device.iter().map(|result| result.is_graph.unwrap()).collect();
            assert_eq!(graphs.iter().position(|&graph| graph), Some(2), "{name}");
            assert!(graphs[2..].iter().all(|&graph| graph), "{name}");
            // Both cuts were seen: hardly an id of the finest level lives on (something may look like what was there).
            let ids = |result: &Result| -> BTreeSet<u32> {
                let present = result.levels[0].segments.iter().filter(|segment| segment.present);
                present.map(|segment| segment.track_id).collect()
            };
            // Both scenes look alike in grey.
            for cut in [12, 18].into_iter().filter(|_| format != PixelFormat::Gray8) {
                let (before, after) = (ids(&device[cut - 1]), ids(&device[cut]));
                let num_same = before.intersection(&after).count();
                assert!(num_same * 4 < before.len(), "{name}, frame {cut}: {before:?} {after:?}");
            }
        }
        assert!(num_reseeded > 0, "no frame re-seeded a cluster: this test does not test that");
    });
}

/// What a person named says the same wherever the bank is searched.
#[test]
fn names_of_a_persons_own_are_found_on_the_gpu() {
    with_stand_ins("names_of_a_persons_own_are_found_on_the_gpu", &[], |folder| {
        let mut deployment = deployment(folder);
        let size = ImageSize::new(96, 64);
        let mut slot = FrameSlot::default();
        let mut processor = Processor::new(Arc::clone(&deployment), spec(Placement::Host)).unwrap();
        draw(&mut slot.output.frame, size, PixelFormat::Rgb8, 0, 0);
        run(&mut processor, &mut slot);
        let dim = deployment.manifest().network.embedding_dim;
        let mut user = UserBank::new(deployment.folder().model_hash(), dim);
        let (map, _) = processor.segments();
        for (slot, prototype) in map.prototypes.chunks_exact(dim).enumerate().filter(|(slot, _)| map.areas[*slot] > 0) {
            user.add(["forklift", "crane", "sky"][slot % 3], prototype, UserOrigin::default()).unwrap();
        }
        drop(processor);
        Arc::get_mut(&mut deployment).unwrap().lay_over(&user, Path::new("none.user")).unwrap();
        let of_bank = deployment.folder().label_space().num_classes() as u8;
        let [device, host] = [Placement::Auto, Placement::Host].map(|placement| {
            let mut processor = Processor::new(Arc::clone(&deployment), spec(placement)).unwrap();
            let results = drive(&mut processor, size, PixelFormat::Rgb8);
            draw(&mut slot.output.frame, size, PixelFormat::Rgb8, 50, 1);
            run(&mut processor, &mut slot);
            assert_eq!(slot.looked_up_on_device, placement == Placement::Auto);
            results
        });
        let mut num_own = 0;
        for (index, (device, host)) in device.iter().zip(&host).enumerate() {
            for (a, b) in device.levels.iter().zip(&host.levels).flat_map(|(a, b)| a.segments.iter().zip(&b.segments)) {
                assert_eq!(a.train_id, b.train_id, "frame {index}");
                assert!((a.unknown_score - b.unknown_score).abs() < 1e-5, "frame {index}");
                num_own += usize::from(a.train_id >= Some(of_bank));
            }
        }
        assert!(num_own > 0, "nothing has a name of a person's own: this test does not test that");
    });
}

/// FNV-1a of everything that was computed.
fn hash(results: &[Result]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |value: u64| hash = (hash ^ value).wrapping_mul(0x0100_0000_01b3);
    for result in results {
        result.slots.iter().chain(&result.cells).for_each(|&slot| add(slot.into()));
        for segment in result.levels.iter().flat_map(|level| &level.segments) {
            add(segment.track_id.into());
            add(segment.confidence.to_bits().into());
            add(segment.unknown_score.to_bits().into());
        }
    }
    hash
}

/// With a graph, without one because TensorRT or the driver refuses, and without the frames' order mattering to who waits: the same
/// bits.
/// A frame as the camera has it gives every bit of what its RGB gives, on the GPU and on the CPU, which converts it when its turn
/// comes; so it does where the format changes on the way, as that of a pipeline does which is asked for another.
#[test]
fn frames_as_they_came_give_what_their_rgb_gives() {
    with_stand_ins("frames_as_they_came_give_what_their_rgb_gives", &[], |folder| {
        let deployment = deployment(folder);
        let drive = |placement, size, format, from: u32, converted: bool| {
            let mut processor = Processor::new(Arc::clone(&deployment), spec(placement)).unwrap();
            let (mut slot, mut rgb) = (FrameSlot::default(), Frame::black(size, PixelFormat::Rgb8));
            let results = (0..9u32).map(|index| {
                draw(&mut slot.output.frame, size, format, index, 0);
                let convert = converted || index < from;
                if convert {
                    frame_to_rgb(&slot.output.frame, &mut rgb).unwrap();
                    slot.output.frame.clone_from(&rgb);
                }
                let result = run(&mut processor, &mut slot);
                let as_it_came = slot.on_device.map(|on_device| on_device.as_it_came);
                assert_eq!(as_it_came, (placement == Placement::Auto).then_some(!convert), "{format}, frame {index}");
                result
            });
            hash(&results.collect::<Vec<_>>())
        };
        for (format, (width, height)) in camera_formats().into_iter().zip([(96, 64), (131, 83), (97, 61), (200, 101)]) {
            let size = ImageSize::new(width, height);
            for placement in [Placement::Auto, Placement::Host] {
                let rgb = drive(placement, size, format, 0, true);
                assert_eq!(drive(placement, size, format, 0, false), rgb, "{format} {size} {placement:?}");
                assert_eq!(drive(placement, size, format, 3, false), rgb, "{format} {size} {placement:?}, later");
            }
        }
        // A frame that is cut is refused by name, and the stream goes on.
        let mut processor = Processor::new(Arc::clone(&deployment), spec(Placement::Auto)).unwrap();
        let mut slot = FrameSlot::default();
        let size = ImageSize::new(96, 64);
        draw(&mut slot.output.frame, size, PixelFormat::Nv12(YuvColors::default()), 0, 0);
        let whole = slot.output.frame.clone();
        slot.output.frame.pixels.truncate(96 * 64);
        let error = processor.process(&mut slot).unwrap_err().to_string();
        assert!(error.contains("6144 bytes") && error.contains("NV12"), "{error}");
        slot.output.frame = whole;
        processor.process(&mut slot).unwrap();
    });
}

#[test]
fn a_graph_changes_no_bit() {
    const TEST: &str = "a_graph_changes_no_bit";
    let body = |folder: &Path| {
        let mut processor = Processor::new(deployment(folder), spec(Placement::Auto)).unwrap();
        let results = drive(&mut processor, ImageSize::new(96, 64), PixelFormat::Rgb8);
        let num_graphs = results.iter().filter(|result| result.is_graph == Some(true)).count();
        println!("hash {} graphs {num_graphs}.", hash(&results));
    };
    let line = |variables: &[(&str, &str)]| {
        let out = with_stand_ins(TEST, variables, body)?;
        let line = out.split("hash ").nth(1).and_then(|rest| rest.split('.').next()).map(str::to_owned);
        let (hash, graphs) = line.as_deref().and_then(|line| line.split_once(" graphs ")).expect("a line");
        Some((hash.to_owned(), graphs.parse::<usize>().unwrap()))
    };
    let Some(with_graph) = line(&[]) else { return };
    assert_eq!(with_graph.1, 20);
    for refused in [("FAKE_TENSORRT_FAIL", "capture"), ("FAKE_CUDA_FAIL", "capture")] {
        assert_eq!(line(&[refused, ("FAKE_CUDA_FAIL_FILE", "")]), Some((with_graph.0.clone(), 0)), "{refused:?}");
    }
}

/// Streams in threads of their own, which come and go while others capture their graphs: the same bits as alone, and all graphs.
#[test]
fn streams_beside_each_other_are_as_alone() {
    with_stand_ins("streams_beside_each_other_are_as_alone", &[], |folder| {
        let deployment = deployment(folder);
        let sizes = [ImageSize::new(96, 64), ImageSize::new(80, 60)];
        let play = |size| {
            let mut processor = Processor::new(Arc::clone(&deployment), spec(Placement::Auto)).unwrap();
            let results = drive(&mut processor, size, PixelFormat::Rgb8);
            (hash(&results), results.iter().filter(|result| result.is_graph == Some(true)).count())
        };
        let alone = sizes.map(play);
        assert_eq!(alone.map(|(_, graphs)| graphs), [20, 20]);
        let together = std::thread::scope(|scope| {
            sizes.map(|size| scope.spawn(move || [play(size), play(size)])).map(|thread| thread.join().unwrap())
        });
        assert_eq!(together, alone.map(|of_size| [of_size; 2]));
    });
}

/// What the GPU refuses is an error with its words; afterwards frames are computed as by a stream that has just begun.
#[test]
fn failures_are_errors_and_the_stream_goes_on() {
    with_stand_ins("failures_are_errors_and_the_stream_goes_on", &[], |folder| {
        let deployment = deployment(folder);
        let size = ImageSize::new(96, 64);
        let mut slot = FrameSlot::default();
        let mut fresh = Processor::new(Arc::clone(&deployment), spec(Placement::Auto)).unwrap();
        draw(&mut slot.output.frame, size, PixelFormat::Rgb8, 7, 0);
        let expected = run(&mut fresh, &mut slot);
        for (what, after, words) in [
            ("launch", 1, &["could not start", "unspecified launch failure", "start hsg again"][..]),
            ("graph", 5, &["could not start a graph", "start hsg again"]),
            ("copy", 1, &["could not finish its work", "start hsg again"]),
            ("copy", 5, &["could not finish its work"]),
            // TensorRT does not tell why.
            ("engine", 1, &["the run failed", "could not finish its work", "start hsg again"]),
            // The size changes, so memory is asked for.
            ("alloc", 5, &["could not allocate", "out of memory", "end other programs"]),
        ] {
            let mut processor = Processor::new(Arc::clone(&deployment), spec(Placement::Auto)).unwrap();
            for index in 0..after {
                draw(&mut slot.output.frame, size, PixelFormat::Rgb8, index, 0);
                processor.process(&mut slot).unwrap();
            }
            fs::write(fail_file(folder), what).unwrap();
            let size_then = if what == "alloc" { ImageSize::new(100, 60) } else { size };
            draw(&mut slot.output.frame, size_then, PixelFormat::Rgb8, after, 0);
            let error = processor.process(&mut slot).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{what} after {after}: `{word}` is not in: {error}");
            }
            // Still so: an error again, no end of the program. (The first frame after an error needs no graph.)
            Compute::recover(&mut processor);
            assert_eq!(processor.process(&mut slot).is_err(), what != "graph", "{what}");
            fs::remove_file(fail_file(folder)).unwrap();
            Compute::recover(&mut processor);
            draw(&mut slot.output.frame, size, PixelFormat::Rgb8, 7, 0);
            let result = run(&mut processor, &mut slot);
            assert_eq!(hash(std::slice::from_ref(&result)), hash(std::slice::from_ref(&expected)), "{what}");
        }
        // A frame larger than the engine takes cannot be: it is resized. One without pixels is refused.
        let mut processor = Processor::new(Arc::clone(&deployment), spec(Placement::Auto)).unwrap();
        slot.output.frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
        assert!(processor.process(&mut slot).is_err());
        slot.output.frame = Frame::black(size, PixelFormat::Rgb8);
        slot.output.frame.pixels.truncate(100);
        assert!(processor.process(&mut slot).unwrap_err().to_string().contains("100 bytes"));
    });
}

#[test]
fn features_that_are_no_numbers_are_refused_by_name() {
    const TEST: &str = "features_that_are_no_numbers_are_refused_by_name";
    with_stand_ins(TEST, &[("FAKE_TENSORRT_FAIL", "nan")], |folder| {
        let mut processor = Processor::new(deployment(folder), spec(Placement::Auto)).unwrap();
        let mut slot = FrameSlot::default();
        draw(&mut slot.output.frame, ImageSize::new(96, 64), PixelFormat::Rgb8, 0, 0);
        let error = processor.process(&mut slot).unwrap_err().to_string();
        assert!(error.contains("embedding") && error.contains("NaN at index 5"), "{error}");
    });
}

/// A live source: frames are given up while the GPU fails, and computed again after.
#[test]
fn a_live_stream_outlives_a_gpu_that_fails_for_a_while() {
    with_stand_ins("a_live_stream_outlives_a_gpu_that_fails_for_a_while", &[], |folder| {
        let mut processor = Processor::new(deployment(folder), spec(Placement::Auto)).unwrap();
        let progress = Arc::<Progress>::default();
        let mut source = MovingStreet::new(true).in_step_with(&progress);
        let pipeline_spec = PipelineSpec { name: "live".to_owned(), max_frames: Some(12), realtime_hz: None };
        let report = std::thread::scope(|scope| {
            scope.spawn(|| {
                let begin = Instant::now();
                let wait_for = |reached: &dyn Fn() -> bool| {
                    while !reached() && begin.elapsed() < Duration::from_secs(100) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                };
                wait_for(&|| progress.frames.load(Ordering::Relaxed) >= 4);
                fs::write(fail_file(folder), "busy").unwrap();
                wait_for(&|| progress.skipped.load(Ordering::Relaxed) >= 2);
                fs::remove_file(fail_file(folder)).unwrap();
            });
            let control = Control::default();
            let sink = &mut pipeline::publish::Discard;
            pipeline::run(&mut source, &mut processor, sink, &pipeline_spec, &control, &progress).unwrap()
        });
        assert_eq!(report.measured.frames, 12);
        assert!(report.skipped >= 2, "{}", report.skipped);
        assert_eq!(report.measured.on_device, 12);
    });
}

/// A GPU that is lost comes back to no process that had it: a live source ends with that error, whoever of driver and TensorRT
/// failed first, so that a service manager may start hsg again.
#[test]
fn a_live_stream_ends_when_the_gpu_is_lost() {
    with_stand_ins("a_live_stream_ends_when_the_gpu_is_lost", &[], |folder| {
        let deployment = deployment(folder);
        for (what, placement, words) in [
            ("launch", Placement::Auto, "could not start"),
            ("copy", Placement::Auto, "could not finish its work"),
            ("copy", Placement::Host, "could not finish its work"),
            // TensorRT fails without a reason.
            ("engine", Placement::Auto, "could not finish its work"),
            ("engine", Placement::Host, "could not finish its work"),
        ] {
            let mut processor = Processor::new(Arc::clone(&deployment), spec(placement)).unwrap();
            let progress = Arc::<Progress>::default();
            let mut source = MovingStreet::new(true).in_step_with(&progress);
            let pipeline_spec = PipelineSpec { name: "live".to_owned(), max_frames: Some(1000), realtime_hz: None };
            let error = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let begin = Instant::now();
                    while progress.frames.load(Ordering::Relaxed) < 4 && begin.elapsed() < Duration::from_secs(100) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    fs::write(fail_file(folder), what).unwrap();
                });
                let control = Control::default();
                let sink = &mut pipeline::publish::Discard;
                pipeline::run(&mut source, &mut processor, sink, &pipeline_spec, &control, &progress).unwrap_err()
            });
            fs::remove_file(fail_file(folder)).unwrap();
            let PipelineError::Backend(error) = error else { panic!("{what}: {error}") };
            assert_eq!(error.kind(), BackendErrorKind::DeviceLost, "{what}: {error}");
            for word in [words, "unspecified launch failure", "start hsg again"] {
                assert!(error.to_string().contains(word), "{what}: `{word}` is not in: {error}");
            }
            assert_eq!(progress.skipped.load(Ordering::Relaxed), 0, "{what}");
        }
    });
}

/// A capture that failed is tried again with other memory, and given up when it fails time and again.
#[test]
fn a_capture_that_failed_is_tried_again() {
    with_stand_ins("a_capture_that_failed_is_tried_again", &[], |folder| {
        let deployment = deployment(folder);
        for num_refusals in [1, 2, 3] {
            let mut processor = Processor::new(Arc::clone(&deployment), spec(Placement::Auto)).unwrap();
            let mut slot = FrameSlot::default();
            let mut play = |size: (usize, usize)| -> Vec<bool> {
                let frames = 0..5;
                let is_graph = |index| {
                    draw(&mut slot.output.frame, ImageSize::new(size.0, size.1), PixelFormat::Rgb8, index, 0);
                    run(&mut processor, &mut slot).is_graph.unwrap()
                };
                frames.map(is_graph).collect()
            };
            fs::write(fail_file(folder), "capture").unwrap();
            for attempt in 0..num_refusals {
                assert_eq!(play((96, 64 + attempt)), [false; 5]);
            }
            fs::remove_file(fail_file(folder)).unwrap();
            // Nothing has changed yet.
            assert_eq!(play((96, 63 + num_refusals)), [false; 5]);
            let expected = if num_refusals < 3 { [false, false, true, true, true] } else { [false; 5] };
            assert_eq!(play((96, 60)), expected, "after {num_refusals}");
        }
    });
}

/// What the kernels do not take is said before the first frame, not with each.
#[test]
fn models_without_kernels_are_known_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = ModelFolder::open(&model_with_bank(folder.path())).unwrap().manifest().clone();
    assert_eq!(DeviceFrame::lack(&manifest), None);
    let lack = |change: &dyn Fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        DeviceFrame::lack(&changed).expect("a reason")
    };
    assert!(lack(&|manifest| manifest.network.embedding_dim = 30).contains("length 30"));
    assert!(lack(&|manifest| manifest.preprocessing.multiple = 10).contains("multiples of 10"));
    let stride = manifest.stride;
    assert!(lack(&|manifest| manifest.preprocessing.input.width = 1025 * stride).contains("1025 cells"));
}

/// Keeps a hash of the pixels of every frame.
#[derive(Default)]
struct Hashes(Vec<u64>);

impl Sink for Hashes {
    fn write(&mut self, frame: &SegmentedFrame) -> std::result::Result<(), SinkError> {
        let mix = |hash: u64, &slot: &u16| (hash ^ u64::from(slot)).wrapping_mul(0x0100_0000_01b3);
        self.0.push(frame.slots.iter().fold(0xcbf2_9ce4_8422_2325, mix));
        Ok(())
    }

    fn finish(&mut self) -> std::result::Result<(), SinkError> {
        Ok(())
    }
}

/// Frames that wait are uploaded while the one before is worked on, and are what they are: all pixels as on the CPU.
#[test]
fn the_next_frame_is_uploaded_meanwhile() {
    with_stand_ins("the_next_frame_is_uploaded_meanwhile", &[], |folder| {
        let deployment = deployment(folder);
        let pipeline_spec = PipelineSpec { name: "file".to_owned(), max_frames: Some(30), realtime_hz: None };
        let [device, host] = [Placement::Auto, Placement::Host].map(|placement| {
            let mut processor = Processor::new(Arc::clone(&deployment), spec(placement)).unwrap();
            let (mut source, mut sink) = (MovingStreet::new(false), Hashes::default());
            let (control, progress) = (Control::default(), Progress::default());
            let report =
                pipeline::run(&mut source, &mut processor, &mut sink, &pipeline_spec, &control, &progress).unwrap();
            (sink.0, report.measured.uploaded_ahead)
        });
        assert_eq!(device.0, host.0);
        // All but the first, were it not for the machine's load.
        assert!((10..30).contains(&device.1) && host.1 == 0, "{} of 30 were uploaded ahead", device.1);
    });
}

/// The ladder of `degrade.rs` changes the network's input: clusters and ids live on, as on the CPU.
#[test]
fn ids_live_on_over_the_ladder() {
    with_stand_ins("ids_live_on_over_the_ladder", &[], |folder| {
        let spec = ProcessorSpec { deadline: Some(Duration::from_nanos(1)), ..spec(Placement::Auto) };
        let mut processor = Processor::new(deployment(folder), spec).unwrap();
        let mut slot = FrameSlot::default();
        let (mut steps, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            draw(&mut slot.output.frame, ImageSize::new(96, 64), PixelFormat::Rgb8, 0, 0);
            slot.counted_from = Instant::now();
            processor.process(&mut slot).unwrap();
            steps.push(slot.output.degradation_step);
            let present = slot.output.levels[2].segments.iter().filter(|segment| segment.present);
            ids.push(present.map(|segment| segment.track_id).max());
            assert_eq!(slot.output.slots.len(), 96 * 64);
        }
        assert_eq!((steps[0], steps[19]), (0, 4), "{steps:?}");
        assert!(steps.is_sorted(), "{steps:?}");
        assert_eq!((processor.segments().0.height, processor.segments().0.width), (4, 6));
        assert!(ids.iter().flatten().all(|&id| id < 6), "{ids:?}");
        // Refined all the same, which costs nothing here: pixels of a cell (16 by 16 at this scale) differ.
        let slots = &slot.output.slots;
        let of_cell = |place: usize| place / 96 / 16 * 16 * 96 + place % 96 / 16 * 16;
        assert!((0..slots.len()).any(|place| slots[place] != slots[of_cell(place)]), "nothing is refined");
    });
}

/// Where the bank does not fit the GPU's memory it is searched on the CPU, and gives the same names.
#[test]
fn a_bank_too_large_for_the_gpu_is_searched_on_the_cpu() {
    const TEST: &str = "a_bank_too_large_for_the_gpu_is_searched_on_the_cpu";
    let body = |folder: &Path| {
        let mut processor = Processor::new(deployment(folder), spec(Placement::Auto)).unwrap();
        let results = drive(&mut processor, ImageSize::new(96, 64), PixelFormat::Rgb8);
        let mut slot = FrameSlot::default();
        draw(&mut slot.output.frame, ImageSize::new(96, 64), PixelFormat::Rgb8, 0, 0);
        processor.process(&mut slot).unwrap();
        println!("hash {} on_device {}.", hash(&results), slot.looked_up_on_device);
    };
    let line = |variables: &[(&str, &str)]| {
        let out = with_stand_ins(TEST, variables, body)?;
        out.split("hash ").nth(1).and_then(|rest| rest.split('.').next()).map(str::to_owned)
    };
    let Some(on_device) = line(&[]) else { return };
    let hash = on_device.strip_suffix(" on_device true").expect("it is searched on the GPU");
    assert_eq!(line(&[("FAKE_CUDA_FREE", "1000")]), Some(format!("{hash} on_device false")));
    // Half of it would be enough room, were the memory not the host's, too.
    let folder = tempfile::tempdir().unwrap();
    let bank_path = ModelFolder::open(&model_with_bank(folder.path())).unwrap().bank_path().unwrap();
    let needed = DeviceBank::<Buffer>::needed_bytes(&Bank::open(&bank_path).unwrap());
    let free = (needed * 5 / 2).to_string();
    assert_eq!(line(&[("FAKE_CUDA_FREE", &free)]), Some(format!("{hash} on_device true")));
    let integrated = [("FAKE_CUDA_FREE", &*free), ("FAKE_CUDA_INTEGRATED", "1")];
    assert_eq!(line(&integrated), Some(format!("{hash} on_device false")));
}

/// That memory is full when the bank should go there is no reason not to start.
#[test]
fn a_bank_that_finds_no_room_is_searched_on_the_cpu() {
    with_stand_ins("a_bank_that_finds_no_room_is_searched_on_the_cpu", &[], |folder| {
        let deployment = deployment(folder);
        let mut slot = FrameSlot::default();
        for has_room in [false, true] {
            if !has_room {
                fs::write(fail_file(folder), "pinned").unwrap();
            }
            let mut processor = Processor::new(Arc::clone(&deployment), spec(Placement::Auto)).unwrap();
            if !has_room {
                fs::remove_file(fail_file(folder)).unwrap();
            }
            draw(&mut slot.output.frame, ImageSize::new(96, 64), PixelFormat::Rgb8, 0, 0);
            run(&mut processor, &mut slot);
            assert_eq!(slot.looked_up_on_device, has_room);
        }
    });
}

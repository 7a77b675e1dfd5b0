//! Streams that share runs of the embedding network (`runtime/src/backend/tensorrt/batch.rs`), against the stand-ins for TensorRT and
//! CUDA: each must get, bit for bit, what it gets alone, whoever else comes, goes or fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use models::manifest::{ModelFolder, Precision};
use runtime::backend::tensorrt::Batching;
use runtime::backend::{BackendChoice, BackendErrorKind};
use runtime::error::PipelineError;
use runtime::pipeline::mask::Mask;
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::{
    self, Compute, Control, Deployment, DeploymentSpec, PipelineSpec, Placement, Processor, ProcessorSpec, Progress,
};
use segcore::image::{ImageSize, PixelFormat};
use segcore::image_io::write_gray8;
use tests::moving::MovingStreet;
use tests::networks::model_with_bank;
use tests::pictures;
use tests::stand_ins::{fail_file, with_stand_ins};

/// Longer than anything takes here: runs then have all the streams that bring frames.
const TOGETHER: Duration = Duration::from_secs(20);
const SIZE: ImageSize = ImageSize { width: 96, height: 64 };

fn deployment(folder: &Path, most: usize, wait: Duration) -> Arc<Deployment> {
    let model = folder.join(format!("model-{most}-{}", wait.as_millis()));
    std::fs::create_dir_all(&model).unwrap();
    let spec = DeploymentSpec {
        backend: BackendChoice::TensorRt,
        precision: Precision::Fp16,
        int8_float: false,
        num_threads: 1,
        batching: Batching { most, wait },
    };
    Arc::new(Deployment::load(ModelFolder::open(&model_with_bank(&model)).unwrap(), spec).unwrap())
}

fn processor(deployment: &Arc<Deployment>) -> Processor {
    let spec = ProcessorSpec { placement: Placement::Auto, tracking: true, ..ProcessorSpec::default() };
    Processor::new(Arc::clone(deployment), spec).unwrap()
}

/// A picture of the street at any size; streams have different parts of the drive.
fn draw(slot: &mut FrameSlot, size: ImageSize, index: u32, stream: u32) {
    let frame = &mut slot.output.frame;
    frame.reshape(size, PixelFormat::Rgb8);
    frame.index = u64::from(index);
    let picture = pictures::street(index + 3 * stream);
    for y in 0..size.height {
        for x in 0..size.width {
            let (column, row) = (x * SIZE.width / size.width, y * SIZE.height / size.height);
            let place = 3 * (y * size.width + x);
            frame.pixels[place..place + 3].copy_from_slice(&picture.get_pixel(column as u32, row as u32).0);
        }
    }
}

/// FNV-1a of what a frame gave.
fn hash(slot: &FrameSlot) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |value: u64| hash = (hash ^ value).wrapping_mul(0x0100_0000_01b3);
    slot.output.slots.iter().for_each(|&slot| add(slot.into()));
    for segment in slot.output.levels.iter().flat_map(|level| &level.segments) {
        add(segment.track_id.into());
        add(segment.confidence.to_bits().into());
        add(segment.unknown_score.to_bits().into());
    }
    hash
}

/// What the frames of a stream gave, and of how many frames their runs were.
#[derive(Debug, PartialEq)]
struct Played {
    hashes: Vec<u64>,
    batches: Vec<usize>,
    num_graphs: usize,
}

fn play(processor: &mut Processor, size: ImageSize, stream: u32, frames: std::ops::Range<u32>) -> Played {
    let mut slot = FrameSlot::default();
    let mut played = Played { hashes: Vec::new(), batches: Vec::new(), num_graphs: 0 };
    for index in frames {
        draw(&mut slot, size, index, stream);
        processor.process(&mut slot).unwrap();
        played.hashes.push(hash(&slot));
        let on_device = slot.on_device.expect("stages on the GPU");
        played.batches.push(on_device.batch);
        played.num_graphs += usize::from(on_device.graph);
    }
    played
}

#[test]
fn streams_get_what_they_get_alone() {
    with_stand_ins("streams_get_what_they_get_alone", &[], |folder| {
        let alone = deployment(folder, 1, Duration::ZERO);
        let (wide, odd) = (ImageSize::new(160, 60), ImageSize::new(229, 151));
        let mut expected = BTreeMap::new();
        for (most, wait, sizes, largest) in [
            (2, TOGETHER, &[SIZE, SIZE][..], 2),
            // More streams than a run takes.
            (2, TOGETHER, &[SIZE, SIZE, SIZE], 2),
            // Other sizes of frames, but one shape of the network's input: 229×151 becomes 96×64.
            (4, TOGETHER, &[SIZE, odd, SIZE, odd], 4),
            // Two shapes, which are never in one run.
            (4, TOGETHER, &[SIZE, wide, SIZE, wide], 2),
            (4, TOGETHER, &[SIZE, wide], 1),
            // Whatever is there.
            (3, Duration::ZERO, &[SIZE, SIZE, wide, SIZE], 3),
            (32, Duration::from_millis(1), &[SIZE, SIZE, SIZE], 3),
        ] {
            let at = format!("{} streams, up to {most} a run, {wait:?}", sizes.len());
            let shared = deployment(folder, most, wait);
            let played: Vec<Played> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..)
                    .zip(sizes)
                    .map(|(stream, &size)| {
                        let mut processor = processor(&shared);
                        assert!(processor.is_batched() && Compute::turns(&processor).is_none(), "{at}");
                        scope.spawn(move || play(&mut processor, size, stream, 0..12))
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for ((stream, &size), played) in (0..).zip(sizes).zip(&played) {
                let expected = expected.entry((stream, size.width)).or_insert_with(|| {
                    let mut processor = processor(&alone);
                    assert!(!processor.is_batched() && Compute::turns(&processor).is_some());
                    play(&mut processor, size, stream, 0..12)
                });
                assert_eq!(expected.batches, [0; 12]);
                assert_eq!(played.hashes, expected.hashes, "{at}, stream {stream}");
                assert_eq!(played.num_graphs, expected.num_graphs, "{at}, stream {stream}");
                assert!(played.batches.iter().all(|size| (1..=largest).contains(size)), "{at}: {:?}", played.batches);
            }
            // Who waits for the others meets them once they are trusted.
            if wait == TOGETHER {
                let met = played.iter().all(|played| played.batches.contains(&largest));
                assert!(met, "{at}: {played:?}");
            }
        }
    });
}

/// The input's shape changes (the ladder), and a mask leaves cells out: no business of the others.
#[test]
fn streams_that_differ_in_ladder_and_mask_do_not_disturb_each_other() {
    with_stand_ins("streams_that_differ_in_ladder_and_mask_do_not_disturb_each_other", &[], |folder| {
        let alone = deployment(folder, 1, Duration::ZERO);
        let shared = deployment(folder, 3, Duration::from_millis(5));
        let path = folder.join("mask.png");
        let kept: Vec<u8> = (0..SIZE.num_pixels()).map(|i| u8::from(i / SIZE.width < 45) * 255).collect();
        write_gray8(&path, SIZE, &kept).unwrap();
        let mask = Mask::read(&path).unwrap();
        let masked = |deployment| {
            let mut processor = processor(deployment);
            processor.set_mask(mask.clone());
            play(&mut processor, SIZE, 1, 0..20).hashes
        };
        let plain = |deployment| play(&mut processor(deployment), SIZE, 0, 0..20).hashes;
        let late = |deployment: &Arc<Deployment>| {
            let deadline = Some(Duration::from_nanos(1));
            let spec = ProcessorSpec { placement: Placement::Auto, tracking: true, deadline, ..Default::default() };
            let mut processor = Processor::new(Arc::clone(deployment), spec).unwrap();
            let mut slot = FrameSlot::default();
            for index in 0..20 {
                draw(&mut slot, SIZE, index, 2);
                slot.counted_from = Instant::now();
                processor.process(&mut slot).unwrap();
            }
            slot.output.degradation_step
        };
        let expected = (plain(&alone), masked(&alone));
        let got = std::thread::scope(|scope| {
            let threads = (scope.spawn(|| plain(&shared)), scope.spawn(|| masked(&shared)));
            let step = scope.spawn(|| late(&shared)).join().unwrap();
            assert_eq!(step, 4, "the ladder was taken to its end");
            (threads.0.join().unwrap(), threads.1.join().unwrap())
        });
        assert_eq!(got, expected);
    });
}

/// A stream that ends, and one that only stops bringing frames: the others wait for it once at most.
#[test]
fn nobody_waits_for_who_is_gone() {
    with_stand_ins("nobody_waits_for_who_is_gone", &[], |folder| {
        let alone = deployment(folder, 1, Duration::ZERO);
        let expected = play(&mut processor(&alone), SIZE, 0, 0..24).hashes;
        // Waiting for each of twelve frames would take a minute and a half.
        let wait = Duration::from_secs(8);
        for ends in [true, false] {
            let shared = deployment(folder, 2, wait);
            let (mut stays, mut goes) = (processor(&shared), processor(&shared));
            std::thread::scope(|scope| {
                let goes = scope.spawn(move || {
                    let played = play(&mut goes, SIZE, 1, 0..12);
                    assert!(played.batches.contains(&2), "{played:?}");
                    (!ends).then_some(goes)
                });
                let first = play(&mut stays, SIZE, 0, 0..12);
                let gone = goes.join().unwrap();
                let begin = Instant::now();
                let mut rest = FrameSlot::default();
                let mut hashes = first.hashes;
                for index in 12..24 {
                    draw(&mut rest, SIZE, index, 0);
                    stays.process(&mut rest).unwrap();
                    assert_eq!(rest.on_device.unwrap().batch, 1);
                    hashes.push(hash(&rest));
                }
                assert!(begin.elapsed() < 6 * wait, "ends: {ends}, {:?}", begin.elapsed());
                assert_eq!(hashes, expected);
                drop(gone);
            });
        }
    });
}

/// Features of one camera that are no numbers are that camera's trouble alone.
#[test]
fn a_frame_that_is_refused_is_refused_alone() {
    const TEST: &str = "a_frame_that_is_refused_is_refused_alone";
    with_stand_ins(TEST, &[("FAKE_TENSORRT_FAIL", "nan-black")], |folder| {
        let alone = deployment(folder, 1, Duration::ZERO);
        let shared = deployment(folder, 2, Duration::from_millis(200));
        let expected = play(&mut processor(&alone), SIZE, 0, 0..16).hashes;
        let (mut good, mut bad) = (processor(&shared), processor(&shared));
        std::thread::scope(|scope| {
            let good = scope.spawn(move || play(&mut good, SIZE, 0, 0..16));
            let mut slot = FrameSlot::default();
            for index in 0..16 {
                draw(&mut slot, SIZE, index, 1);
                if index == 8 {
                    slot.output.frame.pixels.fill(0);
                    let error = bad.process(&mut slot).unwrap_err().to_string();
                    assert!(error.contains("embedding") && error.contains("NaN at index 5"), "{error}");
                    Compute::recover(&mut bad);
                } else {
                    bad.process(&mut slot).unwrap();
                }
            }
            drop(bad);
            let good = good.join().unwrap();
            assert_eq!(good.hashes, expected);
            assert!(good.batches.contains(&2), "{good:?}");
        });
    });
}

/// Without any waiting for others: who comes while a run is on the GPU goes together when it ends.
#[test]
fn who_comes_while_a_run_is_on_the_gpu_goes_together() {
    const TEST: &str = "who_comes_while_a_run_is_on_the_gpu_goes_together";
    with_stand_ins(TEST, &[("FAKE_CUDA_WAIT_MILLIS", "40")], |folder| {
        let shared = deployment(folder, 4, Duration::ZERO);
        let processors = [0, 1, 2, 3].map(|stream| (stream, processor(&shared)));
        let played = std::thread::scope(|scope| {
            let threads = processors
                .map(|(stream, mut processor)| scope.spawn(move || play(&mut processor, SIZE, stream, 0..12)));
            threads.map(|thread| thread.join().unwrap())
        });
        let sizes = played.iter().flat_map(|played| &played.batches);
        let (num_together, num_frames) = (sizes.clone().filter(|size| **size > 1).count(), sizes.count());
        assert!(2 * num_together > num_frames, "{num_together} of {num_frames}: {played:?}");
    });
}

/// A run that does not start fails all its members, with TensorRT's words; the next one is as any other. A stream of another
/// shape, which is in no run with them, is none of theirs.
#[test]
fn a_run_that_fails_fails_its_members_and_no_others() {
    with_stand_ins("a_run_that_fails_fails_its_members_and_no_others", &[], |folder| {
        let alone = deployment(folder, 1, Duration::ZERO);
        let expected = [0, 1].map(|stream| play(&mut processor(&alone), SIZE, stream, 9..16).hashes);
        let wide = ImageSize::new(160, 60);
        let of_other = play(&mut processor(&alone), wide, 2, 0..16).hashes;
        for what in ["batch", "enqueue"] {
            let shared = deployment(folder, 2, TOGETHER);
            let barrier = Barrier::new(2);
            std::fs::write(fail_file(folder), what).unwrap();
            let stream = |stream: u32, mut processor: Processor| {
                // Until the streams meet, which then is an error of both.
                let mut slot = FrameSlot::default();
                let mut failed = Ok(());
                for index in 0..16 {
                    draw(&mut slot, SIZE, index, stream);
                    failed = processor.process(&mut slot);
                    if failed.is_err() {
                        break;
                    }
                }
                // A panic before the barrier would leave the other one there.
                if barrier.wait().is_leader() {
                    std::fs::remove_file(fail_file(folder)).unwrap();
                }
                barrier.wait();
                Compute::recover(&mut processor);
                let after = play(&mut processor, SIZE, stream, 9..16);
                drop(processor);
                let Err(PipelineError::Backend(error)) = failed else { panic!("{what}: {failed:?}") };
                assert_eq!(error.kind(), BackendErrorKind::Run);
                let text = error.to_string();
                assert!(text.contains("the run failed") && text.contains("fake: the device has no time"), "{text}");
                after
            };
            let processors = [0, 1].map(|index| (index, processor(&shared)));
            let mut other = processor(&shared);
            let after = std::thread::scope(|scope| {
                // While no run starts at all, it would not start either.
                let other = (what == "batch").then(|| scope.spawn(move || play(&mut other, wide, 2, 0..16)));
                let threads = processors.map(|(index, processor)| scope.spawn(move || stream(index, processor)));
                if let Some(other) = other {
                    assert_eq!(other.join().unwrap().hashes, of_other);
                }
                threads.map(|thread| thread.join().unwrap())
            });
            assert_eq!(after.map(|played| played.hashes), expected, "{what}");
        }
    });
}

/// Live streams end when the GPU is lost, all of them; a stop request ends them too, whoever waits for whom.
#[test]
fn live_streams_end_together() {
    with_stand_ins("live_streams_end_together", &[], |folder| {
        for what in [Some("engine"), Some("copy"), None] {
            let shared = deployment(folder, 3, Duration::from_secs(1));
            let stop = Arc::<std::sync::atomic::AtomicBool>::default();
            let progress = [(); 3].map(|()| Arc::<Progress>::default());
            let outcomes = std::thread::scope(|scope| {
                let threads = progress.each_ref().map(|progress| {
                    let (mut processor, control) = (processor(&shared), Control::new(Arc::clone(&stop)));
                    scope.spawn(move || {
                        let mut source = MovingStreet::new(true);
                        let spec = PipelineSpec { name: "live".to_owned(), max_frames: None, realtime_hz: None };
                        let sink = &mut pipeline::publish::Discard;
                        pipeline::run(&mut source, &mut processor, sink, &spec, &control, progress)
                    })
                });
                let begin = Instant::now();
                let enough = || progress.iter().all(|progress| progress.frames.load(Ordering::Relaxed) >= 12);
                while !enough() && begin.elapsed() < Duration::from_secs(100) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                match what {
                    Some(what) => std::fs::write(fail_file(folder), what).unwrap(),
                    None => stop.store(true, Ordering::Relaxed),
                }
                threads.map(|thread| thread.join().unwrap())
            });
            std::fs::remove_file(fail_file(folder)).ok();
            let mut met = 0;
            for outcome in outcomes {
                match (what, outcome) {
                    (None, Ok(report)) => {
                        let batched: u64 = report.measured.batches.iter().sum();
                        assert_eq!((batched, report.measured.on_device), (report.measured.frames, batched));
                        met += report.measured.batches[1..].iter().sum::<u64>();
                    }
                    (Some(what), Err(PipelineError::Backend(error))) => {
                        assert_eq!(error.kind(), BackendErrorKind::DeviceLost, "{what}: {error}");
                        assert!(error.to_string().contains("start hsg again"), "{what}: {error}");
                    }
                    (what, outcome) => panic!("{what:?}: {outcome:?}"),
                }
            }
            assert!(what.is_some() || met > 0, "no two frames were in one run");
        }
    });
}

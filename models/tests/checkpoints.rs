//! Files of other programs become weights: PyTorch's own files, written by PyTorch
//! (`tests/fixtures/torch_files/generate.py`), and safetensors. What is damaged or hostile is refused, and never run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use models::arch::{Backbone, NetworkSpec};
use models::checkpoint::{Container, ElementType, TensorFile, fit, infer_network};
use models::params::initial_weights;
use models::weights::{Tensor, Weights, write_safetensors};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/torch_files").join(name)
}

fn open(name: &str) -> TensorFile {
    TensorFile::open(&fixture(name)).unwrap()
}

fn refusal(name: &str) -> String {
    let error = TensorFile::open(&fixture(name)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(name), "the message names the file: {error}");
    error
}

fn parse(bytes: Vec<u8>) -> models::Result<TensorFile> {
    TensorFile::parse(Path::new("x.pth"), bytes)
}

/// All tensors of a file, converted.
fn all_values(file: &TensorFile) -> BTreeMap<String, Tensor> {
    file.tensors().iter().map(|t| (t.name.clone(), file.values(t).unwrap())).collect()
}

/// The network of the `tiny.*` files: channels 1, 1, 2, 4.
fn tiny_network() -> NetworkSpec {
    NetworkSpec { backbone: Backbone::ResNet18, width_factor: 0.008, embedding_dim: 4, groups: vec![3, 2] }
}

fn tiny_weights() -> Weights {
    initial_weights(&tiny_network().params().unwrap(), 5)
}

/// The file that `generate.py` reads; see there.
#[test]
#[ignore = "writes the input of tests/fixtures/torch_files/generate.py"]
fn write_tiny_network() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target).unwrap();
    write_safetensors(&target.join("tiny_network.safetensors"), &tiny_weights()).unwrap();
}

#[test]
fn types_strides_offsets_and_shared_storages_come_out_as_pytorch_has_them() {
    let expected = all_values(&open("expected.safetensors"));
    assert_eq!(expected.len(), 18);
    for (name, container) in [("varied.zip.pth", Container::TorchZip), ("varied.legacy.pth", Container::TorchLegacy)] {
        let file = open(name);
        assert_eq!(file.container(), container);
        assert!(file.foreign().is_empty(), "{:?}", file.foreign());
        assert_eq!(all_values(&file), expected, "{name}");
        let element = |name: &str| file.tensors().iter().find(|t| t.name == name).unwrap().element;
        assert_eq!(element("float16"), ElementType::F16);
        assert_eq!(element("bfloat16"), ElementType::BF16);
        assert_eq!(element("int64"), ElementType::I64);
        assert_eq!(element("bool"), ElementType::Bool);
    }
    // Numbers that are not PyTorch's own word for it.
    assert_eq!(expected["transposed"].shape, [6, 4]);
    assert_eq!(expected["transposed"].values[..4], [0.0, 6.0 / 7.0, 12.0 / 7.0, 18.0 / 7.0]);
    assert_eq!(expected["every_second"].values, [1.0, 3.0, 5.0, 13.0, 15.0, 17.0].map(|n: f32| n / 7.0));
    assert_eq!(expected["int64"].values, [-4e3, -3e3, -2e3, -1e3, 0.0, 1e3, 2e3, 3e3]);
    assert_eq!(expected["bool"].values, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(expected["scalar"], Tensor { shape: vec![], values: vec![2.5] });
    assert_eq!(expected["empty"], Tensor { shape: vec![0, 3], values: vec![] });
}

#[test]
fn what_training_programs_leave_beside_weights_is_listed_or_left_out() {
    for name in ["training.zip.pth", "training.legacy.pth"] {
        let file = open(name);
        let names: Vec<&str> = file.tensors().iter().map(|t| t.name.as_str()).collect();
        let expected = [
            "rng_state",
            "optimizer.state.0.momentum_buffer",
            "optimizer.state.1.momentum_buffer",
            "optimizer.state.2.momentum_buffer",
            "optimizer.state.3.momentum_buffer",
            "state_dict.module.0.weight",
            "state_dict.module.0.bias",
            "state_dict.module.1.weight",
            "state_dict.module.1.bias",
            "state_dict.module.1.running_mean",
            "state_dict.module.1.running_var",
            "state_dict.module.1.num_batches_tracked",
            "memory_bank.0",
            "memory_bank.1",
        ];
        assert_eq!(names, expected, "{name}");
        assert_eq!(all_values(&file)["memory_bank.1"].values, [1.0; 8]);
        assert_eq!(all_values(&file)["state_dict.module.1.num_batches_tracked"].values, [1.0]);
        // numpy's numbers and arrays and PyTorch's own types pass without a word.
        assert_eq!(file.foreign().iter().collect::<Vec<_>>(), ["__main__.Tag"], "{name}");
    }
}

#[test]
fn a_file_that_wants_to_run_a_command_runs_nothing_and_is_named() {
    for name in ["command.zip.pth", "command.legacy.pth"] {
        let file = open(name);
        assert!(file.foreign().contains("posix.system"), "{:?}", file.foreign());
        assert_eq!(all_values(&file)["weights"].values, [1.0; 3]);
        let error = fit(&tiny_network().params().unwrap(), &file).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("missing") && error.contains("posix.system"), "{error}");
    }
    let error = refusal("command_alone.pth");
    assert!(error.contains("`posix.system`") && error.contains("not run"), "{error}");
    assert!(!Path::new("/tmp/hsg-import-ran-a-command").exists());
}

#[test]
fn files_of_other_kinds_are_refused_with_what_to_do() {
    for (name, words) in [
        ("byteorder_big.pth", "big-endian"),
        ("compressed.pth", "compressed"),
        ("torchscript.pth", "TorchScript"),
        ("plain_pickle.pth", "not one that torch.save wrote"),
        ("whole_module.zip.pth", "state_dict()"),
        ("whole_module.legacy.pth", "state_dict()"),
    ] {
        let error = refusal(name);
        assert!(error.contains(words), "{name}: {error}");
    }
    assert_eq!(all_values(&open("byteorder_little.pth"))["a"].values, [1.0, 1.0]);
    let cases: [(&[u8], &str); 4] = [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"hello", "something else"),
        (b"PK\x03\x04 and then nothing", "cut"),
    ];
    for (bytes, words) in cases {
        let error = parse(bytes.to_vec()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = TensorFile::open(Path::new("no/such.pth")).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("no/such.pth"), "{error}");
}

#[test]
fn a_changed_weight_in_a_zip_file_is_noticed() {
    let mut bytes = std::fs::read(fixture("tiny.embedding_model.pth")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let error = parse(bytes).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn whole_networks_are_recognised_and_fit() {
    let params = tiny_network().params().unwrap();
    for (name, prefix, extra) in [
        ("tiny.embedding_model.pth", "embedding_model.", 20),
        ("tiny.module.legacy.pth", "module.", 0),
        ("tiny.half.pth", "state_dict.model.module.", 20),
    ] {
        let file = open(name);
        assert_eq!(infer_network(&file).unwrap(), tiny_network(), "{name}");
        let (weights, report) = fit(&params, &file).unwrap();
        assert_eq!(report.used, params.len());
        assert_eq!(report.stripped, BTreeMap::from([(prefix.to_owned(), params.len())]), "{name}");
        assert_eq!(report.extra.len(), extra, "{name}");
        assert!(report.extra.iter().all(|left| left.name.ends_with("num_batches_tracked") && left.shape.is_empty()));
        assert_eq!(report.sha256.len(), 64);
        let text = report.to_string();
        assert!(text.contains(prefix) && text.contains(&format!("{} tensors used", params.len())), "{text}");
        let mut expected = tiny_weights();
        if name == "tiny.half.pth" {
            assert_eq!(report.converted, BTreeMap::from([("float16".to_owned(), params.len())]));
            assert!(text.contains("converted to float32: float16"), "{text}");
            // Rounded once, to half precision.
            let round = |v: &mut f32| *v = half::f16::from_f32(*v).to_f32();
            expected.values_mut().for_each(|tensor| tensor.values.iter_mut().for_each(round));
        } else {
            assert!(report.converted.is_empty());
        }
        assert_eq!(weights, expected, "{name}");
    }
}

/// The authors' names: the weights of the golden training step, its two levels, as PyTorch saves them.
#[test]
fn the_levels_of_the_golden_training_step_come_through() {
    let golden = fixture("../golden/hsg/training_step.safetensors");
    let golden = all_values(&TensorFile::open(&golden).unwrap());
    let spec = NetworkSpec { backbone: Backbone::ResNet50, width_factor: 1.0, embedding_dim: 16, groups: vec![5, 3] };
    let mut params = spec.params().unwrap();
    params.retain(|p| !p.name.starts_with("resnet_backbone.") && !p.name.starts_with("conv_out."));
    let (weights, report) = fit(&params, &open("golden_levels.half.pth")).unwrap();
    assert_eq!(report.stripped, BTreeMap::from([("embedding_model.module.".to_owned(), params.len())]));
    for param in &params {
        let expected = &golden[&format!("weights.{}", param.name)];
        let rounded: Vec<f32> = expected.values.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
        assert_eq!(weights[&param.name], Tensor { shape: expected.shape.clone(), values: rounded }, "{}", param.name);
    }
}

#[test]
fn safetensors_fit_by_the_same_rules() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut named: Weights = tiny_weights().into_iter().map(|(name, t)| (format!("module.{name}"), t)).collect();
    named.insert("module.optimizer.step".into(), Tensor { shape: vec![], values: vec![3.0] });
    write_safetensors(&path, &named).unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.container(), Container::Safetensors);
    let (weights, report) = fit(&infer_network(&file).unwrap().params().unwrap(), &file).unwrap();
    assert_eq!(weights, tiny_weights());
    assert_eq!(report.extra.len(), 1);
    assert_eq!(report.extra[0].name, "module.optimizer.step");
    assert_eq!(report.sha256, models::files::sha256_hex(&std::fs::read(&path).unwrap()));
}

/// What `fit` says of the tiny network's weights after a change.
fn fit_error(change: impl FnOnce(&mut Weights)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut weights = tiny_weights();
    change(&mut weights);
    write_safetensors(&path, &weights).unwrap();
    let file = TensorFile::open(&path).unwrap();
    let error = fit(&tiny_network().params().unwrap(), &file).unwrap_err().to_string();
    assert!(error.contains("w.safetensors"), "{error}");
    error
}

#[test]
fn missing_misshaped_doubled_and_broken_tensors_are_named() {
    let one = "resnet_backbone.res3.0.conv1.weight";
    let error = fit_error(|w| drop(w.remove(one)));
    assert!(error.contains(&format!("missing 1: `{one}` [1, 1, 3, 3]")), "{error}");
    let error = fit_error(|w| w.retain(|name, _| !name.starts_with("resnet_backbone.res5")));
    assert!(error.contains("missing 25: ") && error.contains("and 15 more"), "{error}");
    let error = fit_error(|w| drop(w.insert(one.into(), Tensor { shape: vec![9], values: vec![0.0; 9] })));
    assert!(error.contains(&format!("of another shape 1: `{one}` [9] instead of [1, 1, 3, 3]")), "{error}");
    let error = fit_error(|w| w.get_mut(one).unwrap().values[4] = f32::INFINITY);
    assert!(error.contains(one) && error.contains("inf at element 4"), "{error}");
    let error = fit_error(|w| drop(w.insert(format!("module.{one}"), w[one].clone())));
    assert!(error.contains("twice") && error.contains(&format!("`module.{one}`")), "{error}");
    let error =
        fit_error(|w| *w = BTreeMap::from([("other.weight".into(), Tensor { shape: vec![1], values: vec![0.0] })]));
    assert!(error.contains("the file has 1: `other.weight`"), "{error}");
}

#[test]
fn a_backbone_alone_and_an_optimiser_alone_say_what_is_missing() {
    let file = open("tiny.backbone_only.pth");
    let error = infer_network(&file).unwrap_err().to_string();
    assert!(error.contains("without levels") && error.contains("tiny.backbone_only.pth"), "{error}");
    let error = fit(&tiny_network().params().unwrap(), &file).unwrap_err().to_string();
    assert!(error.contains("the backbone is whole") && error.contains("without its levels"), "{error}");
    let file = open("optimiser.pth");
    let error = fit(&tiny_network().params().unwrap(), &file).unwrap_err().to_string();
    assert!(error.contains("optimiser's state"), "{error}");
    assert!(infer_network(&file).unwrap_err().to_string().contains("optimiser's state"));
}

/// A safetensors file with tensors of these shapes, all zero, a byte an element.
fn file_of_shapes<'a>(shapes: impl Iterator<Item = (&'a str, &'a [usize])>) -> TensorFile {
    let shapes: Vec<(&str, &[usize])> = shapes.collect();
    let largest = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).max().unwrap();
    let zeros = vec![0u8; largest];
    let views = shapes.iter().map(|(name, shape)| {
        let bytes = &zeros[..shape.iter().product::<usize>()];
        (*name, TensorView::new(Dtype::U8, shape.to_vec(), bytes).unwrap())
    });
    parse(safetensors::serialize(views, None).unwrap()).unwrap()
}

#[test]
fn every_network_is_recognised_from_its_own_parameters() {
    let whole =
        [Backbone::ResNet18, Backbone::ResNet34, Backbone::ResNet50].map(|backbone| (backbone, 1.0, 128, vec![8, 4]));
    let small = [
        (Backbone::ResNet18, 0.5, 128, vec![8, 4]),
        (Backbone::ResNet34, 0.5, 64, vec![5]),
        (Backbone::ResNet50, 0.25, 32, vec![25, 16, 9, 4]),
        (Backbone::ResNet18, 0.3, 16, vec![8, 4, 2]),
        (Backbone::ResNet50, 0.35, 16, vec![12, 3]),
        (Backbone::ResNet18, 1.0 / 16.0, 16, vec![5, 3]),
        (Backbone::ResNet34, 0.0625, 4, vec![2]),
    ];
    for (backbone, width_factor, embedding_dim, groups) in whole.into_iter().chain(small) {
        let spec = NetworkSpec { backbone, width_factor, embedding_dim, groups };
        let params = spec.params().unwrap();
        let file = file_of_shapes(params.iter().map(|p| (p.name.as_str(), p.shape.as_slice())));
        assert_eq!(infer_network(&file).unwrap(), spec);
        let (weights, report) = fit(&params, &file).unwrap();
        assert_eq!((weights.len(), report.used), (params.len(), params.len()));
    }
}

#[test]
fn networks_that_this_program_does_not_have_are_refused() {
    let params = tiny_network().params().unwrap();
    let refused = |change: &dyn Fn(&str, &mut Vec<usize>) -> Option<String>| {
        let changed = params.iter().filter_map(|p| {
            let mut shape = p.shape.clone();
            change(&p.name, &mut shape).map(|name| (name, shape))
        });
        let changed: Vec<(String, Vec<usize>)> = changed.collect();
        let file = file_of_shapes(changed.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())));
        infer_network(&file).unwrap_err().to_string()
    };
    let keep = |name: &str| Some(name.to_owned());
    let error = refused(&|name, _| (!name.contains("res4.1.")).then(|| name.to_owned()));
    assert!(error.contains("[2, 2, 1, 2] basic blocks"), "{error}");
    let error = refused(&|name, shape| {
        shape.iter_mut().filter(|_| name == "resnet_backbone.res3.0.conv1.weight").for_each(|n| *n = 7);
        keep(name)
    });
    assert!(error.contains("channels double"), "{error}");
    let error = refused(&|name, _| (!name.starts_with("conv_out.3")).then(|| name.to_owned()));
    assert!(error.contains("`conv_out.3.weight`"), "{error}");
    let error = refused(&|name, _| (!name.starts_with("fine_query")).then(|| name.to_owned()));
    assert!(error.contains("`fine` and `coarse`"), "{error}");
    let error = refused(&|name, shape| {
        shape.iter_mut().take(1).filter(|_| name.starts_with("coarse_query")).for_each(|n| *n = 9);
        keep(name)
    });
    assert!(error.contains("fall from level to level"), "{error}");
}

/// Bytes of a legacy file around a pickled object without storages.
fn legacy(object: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
    [magic, b"\x80\x02M\xe9\x03.".as_slice(), b"\x80\x02}.", object, b"\x80\x02]."].concat()
}

/// Most memory that this process has had, in bytes.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) * 1024
}

#[test]
fn hostile_pickles_are_refused_in_little_time_and_memory() {
    let many = |code: &[u8], n: usize| code.repeat(n);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("deep nesting of tuples", [b"\x80\x02)".to_vec(), many(b"\x85", 900_000), b".".to_vec()].concat()),
        ("endless marks", [b"\x80\x02".to_vec(), many(b"(", 3_000_000), b".".to_vec()].concat()),
        ("endless dictionaries", [b"\x80\x02".to_vec(), many(b"}", 3_000_000), b".".to_vec()].concat()),
        ("a list that holds itself", b"\x80\x02]q\x00h\x00a.".to_vec()),
        ("a string longer than the file", b"\x80\x02X\xff\xff\xff\xffabc.".to_vec()),
        ("a string longer than memory", b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.".to_vec()),
        ("a memo index beyond bounds", b"\x80\x02Nr\xff\xff\xff\xffj\xfe\xff\xff\xff.".to_vec()),
        ("values from an empty stack", b"\x80\x02aaa.".to_vec()),
        ("values from below a mark", b"\x80\x02N(0.".to_vec()),
        ("a cut pickle", b"\x80\x02".to_vec()),
        ("an extension of a registry", b"\x80\x02\x82\x01.".to_vec()),
        (
            "ten lists of ten of the one before, thirty times: each is visited once",
            [
                b"\x80\x02]q\x00".to_vec(),
                (1..30)
                    .flat_map(|i| [b"](".to_vec(), [b'h', i - 1].repeat(10), vec![b'e', b'q', i]].concat())
                    .collect(),
                b".".to_vec(),
            ]
            .concat(),
        ),
        (
            "one long list of pairs made a dictionary again and again",
            [
                b"\x80\x02ccollections\nOrderedDict\nq\x01]q\x00(".to_vec(),
                many(b"NN\x86", 50_000),
                b"e\x85q\x02".to_vec(),
                many(b"h\x01h\x02R0", 100_000),
                b".".to_vec(),
            ]
            .concat(),
        ),
        (
            "a function that rebuilds itself",
            b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00(h\x00N)}tR.".to_vec(),
        ),
    ];
    let before = peak_memory();
    for (name, object) in cases {
        let start = std::time::Instant::now();
        let outcome = parse(legacy(&object)).map(|_| ());
        assert!(outcome.is_err(), "{name}");
        assert!(start.elapsed().as_secs() < 5, "{name}: {:?}", start.elapsed());
    }
    let grown = peak_memory().saturating_sub(before);
    assert!(grown < 400 << 20, "{grown} bytes");
}

#[test]
fn a_tensor_larger_than_its_storage_is_listed_but_never_made() {
    let file = open("expanded.pth");
    assert_eq!(file.tensors()[0].shape, [1 << 20, 1 << 20]);
    let error = file.values(&file.tensors()[0]).unwrap_err().to_string();
    assert!(error.contains("wide") && error.contains("expanded.pth"), "{error}");
}

/// Everything that an import does with a file; what is made stays below the file's size.
fn exercise(bytes: &[u8]) {
    let Ok(file) = parse(bytes.to_vec()) else { return };
    for tensor in file.tensors() {
        if let Ok(values) = file.values(tensor) {
            assert_eq!(values.values.len(), values.shape.iter().product::<usize>());
            assert!(values.values.len() <= bytes.len());
        }
    }
    if let Ok(spec) = infer_network(&file) {
        let _ = spec.params().map(|params| fit(&params, &file).map(|_| ()));
    }
}

/// The same archive with checksums that say "not computed", so that changes reach what lies behind them.
fn without_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    for at in 0..bytes.len().saturating_sub(20) {
        if bytes[at..].starts_with(b"PK\x01\x02") {
            bytes[at + 16..at + 20].fill(0);
        }
    }
    bytes
}

const SMALL: &[&str] = &[
    "varied.zip.pth",
    "varied.legacy.pth",
    "training.zip.pth",
    "training.legacy.pth",
    "command.zip.pth",
    "command.legacy.pth",
    "byteorder_little.pth",
    "whole_module.zip.pth",
    "expected.safetensors",
];

#[test]
fn cut_files_are_refused_at_every_length() {
    for name in SMALL {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for length in 0..bytes.len() {
            assert!(parse(bytes[..length].to_vec()).is_err(), "{name} cut to {length} bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn changed_bytes_never_panic(
        which in 0..SMALL.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = without_checksums(std::fs::read(fixture(SMALL[which])).unwrap());
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        exercise(&bytes);
    }

    #[test]
    fn random_pickles_never_panic(object in prop::collection::vec(any::<u8>(), 0..200)) {
        exercise(&legacy(&[b"\x80\x02".as_slice(), &object].concat()));
    }

    /// Instructions that exist, in any order, reach further than random bytes.
    #[test]
    fn random_instructions_never_panic(codes in prop::collection::vec(prop::sample::select(INSTRUCTIONS), 0..60)) {
        let object: Vec<u8> = codes.into_iter().flatten().copied().collect();
        exercise(&legacy(&[b"\x80\x02".as_slice(), &object, b"."].concat()));
    }
}

const INSTRUCTIONS: &[&[u8]] = &[
    b"(",
    b"0",
    b"1",
    b"2",
    b"N",
    b")",
    b"]",
    b"}",
    b"t",
    b"l",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"R",
    b"b",
    b"Q",
    b"o",
    b"q\x00",
    b"q\x01",
    b"h\x00",
    b"h\x01",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x88",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"\x94",
    b"\x81",
    b"\x92",
    b"\x93",
    b"K\x05",
    b"K\x00",
    b"K\x01",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"X\x07\x00\x00\x00storage",
    b"X\x01\x00\x00\x000",
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nSize\n",
    b"cposix\nsystem\n",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x01tQ",
];

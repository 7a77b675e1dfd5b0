//! Time and agreement of label retrieval: `speed [key=value …]`, keys and defaults below.
//!
//! Each round times every search once, one after the other, so that a busy machine is busy for all of them. With
//! `faiss=PYTHON` (a Python that has faiss and numpy) FAISS takes part: `cargo xtask bench-retrieval`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use retrieval::{Bank, BankBuilder, NUM_VOTES, Neighbours, Search, Storage, Vote};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Options {
    prototypes: usize,
    queries: usize,
    dimension: usize,
    rounds: usize,
    /// `mixture`, or a bank whose prototypes are repeated with noise.
    data: String,
    /// Length of the noise beside a repeated prototype of length 1.
    noise: f32,
    probes: Vec<usize>,
    faiss: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let mut options = Options {
        prototypes: 857_000,
        queries: 288,
        dimension: 128,
        rounds: 11,
        data: "mixture".to_owned(),
        noise: 0.1,
        probes: vec![8, 16, 32, 64],
        faiss: None,
    };
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').ok_or("expected key=value")?;
        match key {
            "prototypes" => options.prototypes = value.parse()?,
            "queries" => options.queries = value.parse()?,
            "dimension" => options.dimension = value.parse()?,
            "rounds" => options.rounds = value.parse()?,
            "data" => value.clone_into(&mut options.data),
            "noise" => options.noise = value.parse()?,
            "probes" => options.probes = value.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?,
            "faiss" => options.faiss = Some(value.into()),
            _ => {
                return Err(format!(
                    "{key}: expected prototypes, queries, dimension, rounds, data, noise, probes or faiss"
                )
                .into());
            }
        }
    }
    Ok(options)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn normal(&mut self) -> f32 {
        // The sum of twelve uniform numbers, which is close enough.
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }

    /// Adds noise of about this length.
    fn jitter(&mut self, vector: &mut [f32], length: f32) {
        let scale = length / (vector.len() as f32).sqrt();
        vector.iter_mut().for_each(|value| *value += scale * self.normal());
    }
}

fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|value| *value /= norm);
}

struct Data {
    vectors: Vec<f32>,
    labels: Vec<u8>,
    queries: Vec<f32>,
    num_classes: usize,
    dimension: usize,
}

/// 19 classes of 30 looks each (normal noise around a direction, of differing width), seen in images of 288 segments:
/// each image shows a tenth of the looks, has a light of its own that shifts all of them, and one label in twenty is wrong.
/// The queries are a further image.
fn mixture(options: &Options) -> Data {
    let mut random = Random(1);
    let (num_classes, per_class, dimension) = (19, 30, options.dimension);
    let classes: Vec<Vec<f32>> = (0..num_classes).map(|_| direction(&mut random, dimension)).collect();
    let looks: Vec<Vec<f32>> = (0..num_classes * per_class)
        .map(|look| {
            let mut vector = classes[look / per_class].clone();
            random.jitter(&mut vector, 0.9);
            normalise(&mut vector);
            vector
        })
        .collect();
    let widths: Vec<f32> = looks.iter().map(|_| 0.2 + 0.05 * random.below(9) as f32).collect();
    let mut image = |vectors: &mut Vec<f32>, labels: &mut Vec<u8>, segments: usize| {
        let mut light = vec![0.0; dimension];
        random.jitter(&mut light, 0.25);
        let shown: Vec<usize> = (0..looks.len() / 10).map(|_| random.below(looks.len())).collect();
        for _ in 0..segments {
            let look = shown[random.below(shown.len())];
            let mut vector: Vec<f32> = looks[look].iter().zip(&light).map(|(a, b)| a + b).collect();
            random.jitter(&mut vector, widths[look]);
            normalise(&mut vector);
            vectors.extend(vector);
            let is_wrong = random.below(20) == 0;
            labels.push(if is_wrong { random.below(num_classes) } else { look / per_class } as u8);
        }
    };
    let (mut vectors, mut labels, mut queries) = (Vec::new(), Vec::new(), Vec::new());
    while labels.len() < options.prototypes {
        let left = options.prototypes - labels.len();
        image(&mut vectors, &mut labels, left.min(288));
    }
    image(&mut queries, &mut Vec::new(), options.queries);
    Data { vectors, labels, queries, num_classes, dimension }
}

fn direction(random: &mut Random, dimension: usize) -> Vec<f32> {
    let mut vector = vec![0.0; dimension];
    random.jitter(&mut vector, 1.0);
    normalise(&mut vector);
    vector
}

/// A bank's own prototypes, repeated with noise. Queries are some that were left out.
fn repeated(options: &Options) -> Result<Data> {
    let bank = Bank::open(Path::new(&options.data))?;
    let mut random = Random(2);
    let rows: Vec<Vec<f32>> = (0..bank.len()).filter_map(|index| bank.prototype(index)).collect();
    let step = (rows.len() / options.queries).max(2);
    let is_query = |index: usize| index % step == step / 2;
    let kept: Vec<usize> = (0..rows.len()).filter(|index| !is_query(*index)).collect();
    let asked = (0..rows.len()).filter(|index| is_query(*index)).take(options.queries);
    let queries = asked.flat_map(|index| &rows[index]).copied().collect();
    let (mut vectors, mut labels) = (Vec::new(), Vec::new());
    for number in 0..options.prototypes {
        let index = kept[number % kept.len()];
        let mut vector = rows[index].clone();
        if number >= kept.len() {
            random.jitter(&mut vector, options.noise);
            normalise(&mut vector);
        }
        vectors.extend(vector);
        labels.push(bank.labels()[index]);
    }
    let num_classes = usize::from(bank.labels().iter().copied().max().unwrap_or(0)) + 1;
    Ok(Data { vectors, labels, queries, num_classes, dimension: bank.dim() })
}

/// FAISS in a process of its own.
struct Faiss {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Faiss {
    fn start(python: &Path, folder: &Path, data: &Data) -> Result<Self> {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        std::fs::write(folder.join("prototypes.f32"), bytes(&data.vectors))?;
        std::fs::write(folder.join("queries.f32"), bytes(&data.queries))?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/retrieval/faiss_speed.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(folder)
            .args([data.dimension.to_string(), NUM_VOTES.to_string()])
            .env("OMP_NUM_THREADS", rayon::current_num_threads().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        println!("{}", line.trim_end());
        Ok(Self { child, answers })
    }

    fn search(&mut self) -> Result<f64> {
        writeln!(self.child.stdin.as_mut().ok_or("no stdin")?)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let milliseconds = line.trim().parse()?;
        // Its threads wait busily for a while; ours shall not pay for it.
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(milliseconds)
    }
}

impl Drop for Faiss {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// One row of the table.
struct Row {
    name: String,
    millis: Vec<f64>,
    /// Share of queries with the majority label, and share of the neighbours, of the exact search in 32 bits.
    agreement: Option<(f64, f64)>,
}

impl Row {
    fn median(&self) -> f64 {
        let mut sorted = self.millis.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn main() -> Result<()> {
    let options = options()?;
    let data = if options.data == "mixture" { mixture(&options) } else { repeated(&options)? };
    let num_queries = data.queries.len() / data.dimension;
    println!(
        "{num_queries} queries × {} prototypes × {}, {} nearest, data {}, {} threads, {}",
        data.labels.len(),
        data.dimension,
        NUM_VOTES,
        options.data,
        rayon::current_num_threads(),
        segcore::simd::wide_instruction_set(),
    );
    let folder = tempfile::tempdir()?;
    let mut builder = BankBuilder::new(data.dimension, "speed", "speed");
    for (vector, &label) in data.vectors.chunks_exact(data.dimension).zip(&data.labels) {
        builder.push(vector, label)?;
    }
    let mut banks = Vec::new();
    for (name, storage, indexed) in [
        ("f32", Storage::F32, false),
        ("f16", Storage::F16, false),
        ("int8", Storage::Int8, false),
        ("int8 with index", Storage::Int8, true),
    ] {
        let start = Instant::now();
        let builder = builder.clone();
        let encoded = if indexed { builder.finish_indexed(storage)? } else { builder.finish(storage)? };
        let build_seconds = start.elapsed().as_secs_f64();
        let path = folder.path().join(format!("{name}.postcard"));
        encoded.write(&path)?;
        let megabytes = encoded.bytes().len() as f64 / 1e6;
        drop(encoded);
        let start = Instant::now();
        let bank = Bank::open(&path)?;
        println!(
            "{name}: {megabytes:.1} MB, built in {build_seconds:.1} s, opened in {:.0} ms{}{}",
            start.elapsed().as_secs_f64() * 1e3,
            if bank.is_mapped() { ", mapped" } else { "" },
            if indexed { format!(", {} lists", bank.num_lists()) } else { String::new() },
        );
        banks.push((name, bank));
    }
    drop(builder);

    let mut searches: Vec<(String, usize, Search)> = banks[..3]
        .iter()
        .enumerate()
        .map(|(bank, (name, _))| (format!("exact, {name}"), bank, Search::Exact))
        .collect();
    searches.push(("exact, int8 in lists".to_owned(), 3, Search::Exact));
    for &probes in &options.probes {
        searches.push((format!("approximate, int8, {probes} probes"), 3, Search::Approximate { probes }));
    }
    let (mut exact, mut exact_votes): (Vec<Neighbours>, Vec<Vote>) = (Vec::new(), Vec::new());
    banks[0].1.nearest(&data.queries, NUM_VOTES, &mut exact)?;
    banks[0].1.vote(&data.queries, NUM_VOTES, data.num_classes, &mut exact_votes)?;
    let mut rows = Vec::new();
    for (name, bank, search) in &searches {
        let bank = &banks[*bank].1;
        let (mut nearest, mut votes) = (Vec::new(), Vec::new());
        bank.nearest_by(*search, &data.queries, NUM_VOTES, &mut nearest)?;
        bank.vote_by(*search, &data.queries, NUM_VOTES, data.num_classes, &mut votes)?;
        let same = votes.iter().zip(&exact_votes).filter(|(a, b)| a.train_id == b.train_id).count();
        let shared: usize = nearest.iter().zip(&exact).map(|(a, b)| shared(a.indices(), b.indices())).sum();
        let total = exact.iter().map(Neighbours::len).sum::<usize>();
        let agreement = Some((same as f64 / votes.len() as f64, shared as f64 / total as f64));
        rows.push(Row { name: name.clone(), millis: Vec::new(), agreement });
    }
    let mut faiss = match &options.faiss {
        None => None,
        Some(python) => Some(Faiss::start(python, folder.path(), &data)?),
    };
    if let Some(faiss) = &mut faiss {
        rows.push(Row { name: "FAISS IndexFlatIP".to_owned(), millis: Vec::new(), agreement: None });
        faiss.search()?;
        let bytes = std::fs::read(folder.path().join("neighbours.u32"))?;
        let found: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let common: usize = found.chunks_exact(NUM_VOTES).zip(&exact).map(|(a, b)| shared(a, b.indices())).sum();
        println!("neighbours that FAISS finds too: {:.4} %", 1e2 * common as f64 / found.len() as f64);
    }
    drop(data.vectors);
    let mut votes = Vec::new();
    for _ in 0..options.rounds {
        for ((_, bank, search), row) in searches.iter().zip(&mut rows) {
            let start = Instant::now();
            banks[*bank].1.vote_by(*search, &data.queries, NUM_VOTES, data.num_classes, &mut votes)?;
            row.millis.push(start.elapsed().as_secs_f64() * 1e3);
        }
        if let (Some(faiss), Some(row)) = (&mut faiss, rows.last_mut()) {
            row.millis.push(faiss.search()?);
        }
    }
    println!(
        "\n{:<32}{:>10}{:>20}{:>9}{:>14}{:>12}",
        "search", "median ms", "least … most", "ratio", "same label", "same 20"
    );
    let yardstick = rows[2].median();
    for row in &rows {
        let (least, most) = row.millis.iter().fold((f64::MAX, 0.0f64), |(a, b), v| (a.min(*v), b.max(*v)));
        let shares =
            row.agreement.map_or((String::new(), String::new()), |(a, b)| (format!("{a:.4}"), format!("{b:.4}")));
        println!(
            "{:<32}{:>10.2}{:>20}{:>9.2}{:>14}{:>12}",
            row.name,
            row.median(),
            format!("{least:.1} … {most:.1}"),
            row.median() / yardstick,
            shares.0,
            shares.1,
        );
    }
    println!("ratio: to the exact search in int8; same label, same 20: as the exact search in f32");
    Ok(())
}

/// Number of common entries.
fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().filter(|index| b.contains(index)).count()
}

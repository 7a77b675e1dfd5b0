//! What there is to see: the model, its streams, and `/status.json`, which says how they are. \[F8\]

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use segcore::label_space::LabelSpace;
use serde::Serialize;

use super::exchange::Exchange;
use super::figures::{Figures, StreamFigures};
use crate::pipeline::Deployment;

/// Drawn by chance for each run. A process id would not do: in a container it is the same after each restart.
static RUN: LazyLock<String> = LazyLock::new(|| format!("{:016x}", RandomState::new().hash_one(std::process::id())));

/// What the page says about the model.
#[derive(Clone, Debug, Serialize)]
struct About {
    model: String,
    license: String,
    backend: String,
    backend_version: String,
    precision: String,
}

/// One stream.
#[derive(Debug)]
pub(super) struct StreamSite {
    pub name: String,
    /// Its name in addresses, that of its output folder.
    pub slug: String,
    pub exchange: Arc<Exchange>,
    pub figures: Arc<Figures>,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Site {
    about: About,
    /// None without a bank and names of a person: there are no classes.
    label_space: Option<LabelSpace>,
    has_bank: bool,
    pub streams: Vec<StreamSite>,
}

/// `/status.json`; `docs/live.md` says what the fields are.
#[derive(Serialize)]
struct StatusDocument<'a> {
    hsg: &'static str,
    process: u32,
    run: &'static str,
    state: &'static str,
    viewers: usize,
    viewers_max: usize,
    #[serde(flatten)]
    about: Option<&'a About>,
    streams: Vec<StreamDocument<'a>>,
}

#[derive(Serialize)]
struct StreamDocument<'a> {
    name: &'a str,
    path: String,
    views: Vec<String>,
    #[serde(flatten)]
    figures: StreamFigures,
}

impl Site {
    /// Streams of one model.
    pub fn new(deployment: &Deployment, streams: Vec<StreamSite>) -> Self {
        let (manifest, backend) = (deployment.manifest(), deployment.backend());
        let about = About {
            model: manifest.name.clone(),
            license: manifest.license.clone(),
            backend: backend.name.to_owned(),
            backend_version: backend.version.clone(),
            precision: deployment.spec().precision.to_string(),
        };
        let label_space = deployment.has_classes().then(|| deployment.label_space().clone());
        Self { about, label_space, has_bank: deployment.bank().is_some(), streams }
    }

    /// `/status.json`; `site`: none while the model is being loaded.
    pub fn status(site: Option<&Self>, viewers: usize, viewers_max: usize) -> Vec<u8> {
        let streams = site.map_or(&[][..], |site| &site.streams);
        let label_space = site.and_then(|site| site.label_space.as_ref());
        let has_bank = site.is_some_and(|site| site.has_bank);
        let document = StatusDocument {
            hsg: env!("CARGO_PKG_VERSION"),
            process: std::process::id(),
            run: &RUN,
            state: if site.is_some() { "running" } else { "loading" },
            viewers,
            viewers_max,
            about: site.map(|site| &site.about),
            streams: streams
                .iter()
                .map(|stream| StreamDocument {
                    name: &stream.name,
                    path: format!("/streams/{}", super::request::encoded(&stream.slug)),
                    views: stream.exchange.views().iter().map(|view| view.name()).collect(),
                    figures: stream.figures.read(label_space, has_bank),
                })
                .collect(),
        };
        // Text and finite numbers always become JSON.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

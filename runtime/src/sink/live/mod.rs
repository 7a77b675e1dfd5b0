//! The live page (`--live`): what the robot sees, in a browser. \[F8\]
//!
//! The way of a frame: the publish thread offers it (`exchange.rs`), which costs one look at a number unless somebody waits for a
//! picture; the stream's painter draws and encodes what is waited for (`painter.rs`); the thread of each viewer's connection
//! sends it (`server.rs`, requests in `request.rs`). The figures beside it (`figures.rs`, `site.rs`) are a few numbers per frame.
//! `page.html` is the page; `address.rs` says where it is served, and under which names.
//!
//! Nothing here can slow the pipeline down or fail it: viewers wait for frames, and frames for nobody.

mod address;
mod exchange;
mod figures;
mod page;
mod painter;
mod request;
mod server;
mod site;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

pub use address::{LiveAddress, LiveError};

use super::{SegmentedFrame, SinkError, subfolder_name};
use crate::pipeline::publish::{Measurements, Sink};
use crate::pipeline::{Deployment, Progress};
use exchange::{Exchange, View};
use figures::Figures;
use painter::PainterSpec;
use server::Server;
use site::{Site, StreamSite};

/// What the pictures may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LivePictures {
    /// Most pictures a second of each source, above 0.
    pub rate_hz: f64,
    /// Widest picture, pixels.
    pub width: usize,
    /// Quality of its JPEG, 1 to 100.
    pub quality: u8,
}

/// The page of a run; it is over when this is dropped.
pub struct LivePage {
    address: LiveAddress,
    pictures: LivePictures,
    server: Server,
    exchanges: Vec<Arc<Exchange>>,
    painters: Vec<JoinHandle<()>>,
}

impl LivePage {
    /// Listens, and says to whoever looks that the model is being loaded.
    ///
    /// # Errors
    /// When the address is taken, is not this machine's or may not be used.
    pub fn open(address: LiveAddress, pictures: LivePictures) -> Result<Self, LiveError> {
        let server = Server::start(&address)?;
        Ok(Self { address, pictures, server, exchanges: Vec::new(), painters: Vec::new() })
    }

    /// What a person types into a browser.
    pub fn url(&self) -> String {
        self.address.url(self.server.local())
    }

    /// Whether other machines reach it.
    pub fn is_public(&self) -> bool {
        !self.server.local().ip().is_loopback()
    }

    /// Shows these streams of a model from now on; returns what takes their frames, in their order.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn show(
        &mut self,
        deployment: &Deployment,
        streams: impl IntoIterator<Item = (String, Arc<Progress>)>,
    ) -> Result<Vec<LiveSink>, LiveError> {
        let has_classes = deployment.has_classes();
        let painter = PainterSpec {
            label_space: deployment.label_space().clone(),
            has_classes,
            width: self.pictures.width,
            quality: self.pictures.quality,
        };
        let num_levels = deployment.manifest().levels.len() + 1;
        let interval = Duration::from_secs_f64(1.0 / self.pictures.rate_hz);
        let (mut sinks, mut sites) = (Vec::new(), Vec::new());
        for (name, progress) in streams {
            let exchange = Arc::new(Exchange::new(View::all(num_levels, has_classes), interval));
            let figures = Arc::new(Figures::new(progress));
            let (for_painter, painter) = (Arc::clone(&exchange), painter.clone());
            let (ready, is_ready) = sync_channel(1);
            let thread = std::thread::Builder::new().name("hsg-live-draw".to_owned());
            let thread = thread.spawn(move || painter::run(&for_painter, &painter, ready));
            self.exchanges.push(Arc::clone(&exchange));
            self.painters.push(thread.map_err(|source| LiveError::Spawn { source })?);
            // So that nothing of its beginning falls among the first frames; one that cannot draw is gone.
            let _ = is_ready.recv();
            sinks.push(LiveSink { exchange: Arc::clone(&exchange), figures: Arc::clone(&figures), held: None });
            sites.push(StreamSite { slug: subfolder_name(&name), name, exchange, figures });
        }
        self.server.show(Site::new(deployment, sites));
        Ok(sinks)
    }
}

impl Drop for LivePage {
    fn drop(&mut self) {
        for exchange in &self.exchanges {
            exchange.close();
        }
        for painter in self.painters.drain(..) {
            // One that panicked has said so.
            let _ = painter.join();
        }
        // The server ends with its fields.
    }
}

/// Takes the frames of one stream for the page.
#[derive(Debug)]
pub struct LiveSink {
    exchange: Arc<Exchange>,
    figures: Arc<Figures>,
    /// See [`Exchange::offer`].
    held: Option<SegmentedFrame>,
}

impl Sink for LiveSink {
    fn show(&mut self, frame: &SegmentedFrame) -> ControlFlow<()> {
        self.exchange.offer(frame, &mut self.held);
        ControlFlow::Continue(())
    }

    fn measured(&mut self, frame: &SegmentedFrame, latency_nanos: u64, so_far: &Measurements) {
        self.figures.add(frame, latency_nanos, so_far);
    }

    fn write(&mut self, _: &SegmentedFrame) -> Result<(), SinkError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.figures.end();
        self.exchange.close();
        Ok(())
    }
}

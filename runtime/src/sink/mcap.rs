//! `recording.mcap`: panel, source picture and published frame of each frame, for Foxglove, Rerun and whatever reads MCAP.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use recording::writer::{COMPRESSED_IMAGE, COMPRESSED_IMAGE_SCHEMA, Channel, Writer, compressed_image};

use super::SinkError;
use super::folder::temporary_name;

/// What the channel of published frames says about its messages.
const FRAME_SCHEMA: &str = "One published frame of hsg in postcard, version 1, as docs/wire.md of the project describes it; the \
                            files hsg_frames.py and hsg_frames.hpp beside it read it.";
/// Bytes of a frame before its body in a stream, which a message does not need.
const LENGTH_BYTES: usize = wire::LENGTH_BYTES;

/// Writes the recording: under a temporary name until it is closed.
pub(super) struct McapFile {
    path: PathBuf,
    temporary: PathBuf,
    stream: String,
    writer: Writer,
    start: Vec<u8>,
    file: Option<File>,
    /// The chunk of the frame that comes next.
    chunk: Vec<u8>,
    panel_head: Vec<u8>,
    image_head: Vec<u8>,
}

impl McapFile {
    /// Prepares the recording of the source `stream`; nothing is written before the first frame.
    pub fn new(path: PathBuf, stream: &str) -> Self {
        // A topic is a path: what would end a part of it is none of the name.
        let name: String =
            stream.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
        let image = |topic: &str| Channel {
            topic: format!("/hsg/{name}/{topic}"),
            schema: COMPRESSED_IMAGE.to_owned(),
            schema_encoding: "protobuf".to_owned(),
            schema_data: COMPRESSED_IMAGE_SCHEMA.to_vec(),
            encoding: "protobuf".to_owned(),
        };
        let frame = Channel {
            topic: format!("/hsg/{name}/frame"),
            schema: "hsg.Frame".to_owned(),
            schema_encoding: "text".to_owned(),
            schema_data: FRAME_SCHEMA.as_bytes().to_vec(),
            encoding: "postcard".to_owned(),
        };
        let mut writer = Writer::new(vec![image("overlay"), image("image"), frame]);
        Self {
            temporary: temporary_name(&path),
            path,
            stream: stream.to_owned(),
            start: writer.start(),
            writer,
            file: None,
            chunk: Vec::new(),
            panel_head: Vec::new(),
            image_head: Vec::new(),
        }
    }

    /// Makes the bytes of a frame: two JPEGs, and the frame as `frames.hsg` has it. `nanos` is its capture time, since 1970
    /// where that is known.
    pub fn encode(&mut self, nanos: u64, panel: &[u8], image: &[u8], published: &[u8]) {
        let Self { stream, writer, chunk, panel_head, image_head, .. } = self;
        compressed_image(nanos, stream, "jpeg", panel.len(), panel_head);
        compressed_image(nanos, stream, "jpeg", image.len(), image_head);
        let body = published.get(LENGTH_BYTES..).unwrap_or_default();
        chunk.clear();
        writer.chunk_into(nanos, &[(0, &[panel_head, panel]), (1, &[image_head, image]), (2, &[body])], chunk);
    }

    /// Bytes that writing the encoded frame adds, closing the file included.
    pub fn encoded_bytes(&self) -> u64 {
        let fixed = if self.file.is_none() { (self.start.len() + self.writer.end().len()) as u64 } else { 0 };
        self.chunk.len() as u64 + self.writer.index_bytes_of_chunk() + fixed
    }

    /// Appends the encoded frame. After an error the file ends with the frame before.
    pub fn append(&mut self) -> Result<(), SinkError> {
        let written = self.begin().and_then(|()| self.file.as_mut().map_or(Ok(()), |file| file.write_all(&self.chunk)));
        match written {
            Ok(()) => {
                self.writer.keep();
                Ok(())
            }
            Err(source) => {
                let _ = self.cut();
                Err(SinkError::Write { path: self.path.clone(), source })
            }
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let mut file = File::create(&self.temporary)?;
            if let Err(error) = file.write_all(&self.start) {
                let _ = fs::remove_file(&self.temporary);
                return Err(error);
            }
            self.file = Some(file);
        }
        Ok(())
    }

    /// Removes what is behind the last whole frame.
    fn cut(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.set_len(self.writer.bytes())?;
        file.seek(SeekFrom::Start(self.writer.bytes())).map(drop)
    }

    /// Writes the index and gives the file its name. Further calls do nothing.
    pub fn finish(&mut self) -> Result<(), SinkError> {
        if self.file.is_none() {
            return Ok(());
        }
        let closed = loop {
            match self.close() {
                // No room for the index: give up frames until it fits; their bytes are far more than the index.
                Err(error) if is_full(&error) && self.writer.give_up_some() => {}
                other => break other,
            }
        };
        self.file = None;
        closed.and_then(|()| fs::rename(&self.temporary, &self.path)).map_err(|source| {
            let _ = fs::remove_file(&self.temporary);
            SinkError::Write { path: self.path.clone(), source }
        })
    }

    fn close(&mut self) -> io::Result<()> {
        self.cut()?;
        let end = self.writer.end();
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(&end))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero)
}

/// The recording's path in a source's folder.
pub(super) fn path_in(folder: &Path) -> PathBuf {
    folder.join("recording.mcap")
}

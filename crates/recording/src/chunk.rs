//! Unpacking chunks.

use std::io::Read;

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Largest chunk, and message outside of chunks, that is read, bytes: one gibibyte. Writers make chunks of some megabytes; a
/// file that promises more could take all memory.
pub(crate) const MAX_BYTES: u64 = 1 << 30;

/// Unpacks chunks; keeps what the zstd decoder allocated.
pub(crate) struct Unpacker {
    zstd: Box<FrameDecoder>,
}

impl Unpacker {
    pub fn new() -> Self {
        Self { zstd: Box::new(FrameDecoder::new()) }
    }

    /// Unpacks `packed` into `out` (cleared first, its memory kept). After an error `out` has what could be unpacked before it.
    ///
    /// # Errors
    /// In words, when the content is no such, damaged, or does not have `expected` bytes.
    pub fn unpack(
        &mut self,
        compression: &str,
        packed: impl Read,
        expected: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        out.clear();
        // One more than expected tells too much from enough; nothing is reserved for what a header merely promises.
        let limit = expected.saturating_add(1);
        let mut read = |content: &mut dyn Read| content.take(limit).read_to_end(out).map_err(|error| error.to_string());
        match compression {
            "" | "none" => read(&mut { packed })?,
            "lz4" => read(&mut lz4_flex::frame::FrameDecoder::new(packed)).map_err(|error| format!("lz4: {error}"))?,
            "zstd" => {
                let content = StreamingDecoder::new_with_decoder(packed, self.zstd.as_mut());
                let mut content = content.map_err(|error| format!("zstd: {error}"))?;
                read(&mut content).map_err(|error| format!("zstd: {error}"))?
            }
            other => return Err(format!("expected no compression, lz4 or zstd, got `{}`", other.escape_debug())),
        };
        if out.len() as u64 != expected {
            let got = if out.len() as u64 > expected { "more".to_owned() } else { out.len().to_string() };
            out.truncate(usize::try_from(expected).unwrap_or(usize::MAX));
            return Err(format!("expected {expected} bytes, got {got}"));
        }
        Ok(())
    }
}

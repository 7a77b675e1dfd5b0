//! CDR, what ROS 2 messages are written in: numbers aligned to their size, in the order that the first four bytes name.
//! (OMG, "Common Object Request Broker Architecture", 15.3; the first version, as all ROS 2 middleware writes it.)

/// Takes a message's fields from its front.
pub(crate) struct Cdr<'a> {
    body: &'a [u8],
    at: usize,
    is_big_endian: bool,
}

impl<'a> Cdr<'a> {
    /// Reads the encapsulation.
    ///
    /// # Errors
    /// When it is cut or another encoding.
    pub fn new(data: &'a [u8]) -> Result<Self, String> {
        let Some((&[high, low, _, _], body)) = data.split_first_chunk::<4>() else {
            return Err(format!("expected a CDR message, got {} bytes", data.len()));
        };
        match (high, low) {
            (0, 0) => Ok(Self { body, at: 0, is_big_endian: true }),
            (0, 1) => Ok(Self { body, at: 0, is_big_endian: false }),
            (0, 6..=11) => Err("expected the first version of CDR, got the second (XCDR2)".to_owned()),
            _ => Err(format!("expected CDR (0x0000 or 0x0001 first), got 0x{high:02x}{low:02x}")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.body.len());
        let end = end.ok_or_else(|| {
            format!("it is cut: expected {count} bytes at {}, got {}", self.at, self.body.len().saturating_sub(self.at))
        })?;
        let bytes = &self.body[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    pub fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        self.at = self.at.next_multiple_of(4);
        let bytes = self.take(4)?.try_into().unwrap_or_default();
        Ok(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// A string; its length counts the zero at its end.
    pub fn string(&mut self) -> Result<&'a str, String> {
        let bytes = self.bytes()?;
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        std::str::from_utf8(bytes).map_err(|_| "a string in it is no UTF-8".to_owned())
    }

    /// A sequence of bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], String> {
        let count = self.u32()?;
        self.take(count as usize)
    }
}

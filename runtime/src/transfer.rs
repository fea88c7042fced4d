//! Bytes to and from memory that the host cannot see: through staging buffers and copies on the device's queue.

use crate::buffer::{Buffer, Usage};
use crate::device::{CompileOptions, Compiled, Device};
use crate::error::Error;
use crate::recording::Recording;
use crate::submit::Ticket;

/// Staging buffers of an uploader: one is filled while the other is copied.
const SLOTS: usize = 2;

/// Fills device memory through a ring of staging buffers. One per thread; dropping it waits for its copies.
pub struct Uploader {
    device: Device,
    slots: Vec<Slot>,
    next: usize,
}

struct Slot {
    staging: Buffer,
    // The copy on its way. Dropping the recording waits for it.
    copy: Option<(Compiled, Ticket)>,
}

impl Slot {
    fn settle(&mut self) -> Result<(), Error> {
        self.copy.take().map_or(Ok(()), |(_, ticket)| ticket.wait())
    }
}

impl Uploader {
    /// A ring whose buffers hold `chunk` bytes each.
    ///
    /// Errors: [`Error::OutOfMemory`].
    pub fn new(device: &Device, chunk: u64) -> Result<Self, Error> {
        let slots = (0..SLOTS)
            .map(|index| {
                let staging = device.buffer(format!("staging {index}"), chunk, Usage::Staging)?;
                Ok(Slot { staging, copy: None })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Uploader { device: device.clone(), slots, next: 0 })
    }

    /// Bytes that the staging buffers take together.
    pub fn bytes(device: &Device, chunk: u64) -> u64 {
        if device.caps().memory.is_empty() { 0 } else { SLOTS as u64 * chunk }
    }

    /// Lets `fill` write `len` bytes, at most a chunk, that reach `target` at `offset`. What is rounded up to whole words
    /// behind them is overwritten.
    ///
    /// Errors: those of `fill` and of the copy.
    pub fn put<E: From<Error>>(
        &mut self,
        target: &Buffer,
        offset: u64,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let slot = &mut self.slots[self.next];
        self.next = (self.next + 1) % SLOTS;
        slot.settle()?;
        slot.staging.write_with(0, len, fill)?;
        let words = len.next_multiple_of(4);
        let mut recording = Recording::new(format!("upload of {}", target.name()));
        recording.copy("upload", slot.staging.view(0, words), target.view(offset, words))?;
        let compiled = self.device.compile(&recording, &CompileOptions::default())?;
        let ticket = self.device.submit(&[&compiled])?;
        slot.copy = Some((compiled, ticket));
        Ok(())
    }

    /// Waits until everything has arrived.
    pub fn finish(mut self) -> Result<(), Error> {
        self.slots.iter_mut().try_for_each(Slot::settle)
    }
}

impl Device {
    /// Writes whole words to any buffer, through staging where the host cannot see it.
    pub fn write(&self, target: &Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if target.is_host_visible() || bytes.is_empty() {
            return target.write(offset, bytes);
        }
        let mut uploader = Uploader::new(self, bytes.len() as u64)?;
        uploader.put(target, offset, bytes.len() as u64, |staging| {
            staging.copy_from_slice(bytes);
            Ok::<(), Error>(())
        })?;
        uploader.finish()
    }

    /// Reads from any buffer. Only after the submissions that write the range were waited for.
    pub fn read(&self, source: &Buffer, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        if source.is_host_visible() || bytes.is_empty() {
            return source.read(offset, bytes);
        }
        let words = (bytes.len() as u64).next_multiple_of(4);
        let results = self.buffer("download", words, Usage::Readback)?;
        let mut recording = Recording::new(format!("download of {}", source.name()));
        recording.copy("download", source.view(offset, words), results.whole())?;
        let compiled = self.compile(&recording, &CompileOptions::default())?;
        self.submit(&[&compiled])?.wait()?;
        results.read(0, bytes)
    }
}

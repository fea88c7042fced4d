//! How far the device came: a word of host-visible memory for each recording, in which the device notes what it has finished.
//! Read when the device was lost, and to tell a slow one from one that stands still.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use ash::vk;

use crate::buffer::Usage;
use crate::error::Error;
use crate::memory::{Storage, VulkanBuffer};
use crate::vulkan::{Context, lock};

/// Recordings that can have a word at once; what is made beyond them goes without.
const WORDS: u32 = 1024;
/// Commands between two notes, of which each costs the device a fraction of a microsecond.
pub(crate) const STRIDE: usize = 8;

/// Where the device stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the recording.
    pub recording: String,
    /// Label of the last command known to be finished.
    pub finished: Option<String>,
    /// Label of the last command that may have begun.
    pub begun: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.finished {
            Some(finished) => write!(f, "{finished} was finished")?,
            None => write!(f, "nothing was finished")?,
        }
        write!(f, " and no more than {} begun of \"{}\"", self.begun, self.recording)
    }
}

/// The notes of one recording.
pub(crate) struct Marks {
    pub(crate) word: u32,
    name: String,
    labels: Vec<String>,
    /// Numbers of finished commands that are noted, in order.
    notes: Vec<u32>,
    // Not the trail, which keeps what is under way.
    free: Arc<Mutex<Vec<u32>>>,
}

impl Drop for Marks {
    fn drop(&mut self) {
        lock(&self.free).push(self.word);
    }
}

/// The words of a device.
pub(crate) struct Trail {
    storage: Mutex<Storage>,
    pub(crate) handle: vk::Buffer,
    free: Arc<Mutex<Vec<u32>>>,
    /// What was submitted, with its place on the timeline.
    underway: Mutex<VecDeque<(u64, Arc<Marks>)>>,
}

impl Trail {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Arc<Self>, Error> {
        let buffer = VulkanBuffer::new(context, "trail", 4 * u64::from(WORDS), Usage::Readback)?.uncounted();
        Ok(Arc::new(Trail {
            handle: buffer.handle,
            storage: Mutex::new(Storage::Vulkan(buffer)),
            free: Arc::new(Mutex::new((0..WORDS).rev().collect())),
            underway: Mutex::default(),
        }))
    }

    /// A word for a recording of these labels, which notes when so many commands are finished.
    pub(crate) fn marks(&self, name: &str, labels: Vec<String>, notes: Vec<u32>) -> Option<Arc<Marks>> {
        let word = lock(&self.free).pop()?;
        Some(Arc::new(Marks { word, name: name.to_owned(), labels, notes, free: Arc::clone(&self.free) }))
    }

    /// Takes note of a submission at a value of the timeline; what is below `passed` has ended.
    pub(crate) fn submitted(&self, value: u64, passed: u64, marks: &[Arc<Marks>]) {
        let mut underway = lock(&self.underway);
        while underway.front().is_some_and(|(value, _)| *value <= passed) {
            underway.pop_front();
        }
        underway.extend(marks.iter().map(|marks| (value, Arc::clone(marks))));
    }

    /// All words.
    pub(crate) fn words(&self) -> Vec<u32> {
        let mut words = vec![0u32; WORDS as usize];
        match lock(&self.storage).peek(bytemuck::cast_slice_mut(&mut words)) {
            Ok(()) => words,
            Err(_) => Vec::new(),
        }
    }

    /// Where the device stands in what is not known to have ended.
    pub(crate) fn place(&self) -> Option<Place> {
        let words = self.words();
        lock(&self.underway).iter().find_map(|(_, marks)| {
            let done = *words.get(marks.word as usize)?;
            let last = marks.labels.len().checked_sub(1)?;
            let next = marks.notes.iter().find(|note| **note > done).map_or(last, |next| *next as usize - 1);
            ((done as usize) <= last).then(|| Place {
                recording: marks.name.clone(),
                finished: (done as usize).checked_sub(1).map(|index| marks.labels[index].clone()),
                begun: marks.labels[next.min(last)].clone(),
            })
        })
    }

    /// Adds the place to an error that lacks it.
    pub(crate) fn explain(&self, mut error: Error) -> Error {
        if let Error::Lost { place, .. } | Error::Timeout { place, .. } = &mut error
            && place.is_none()
        {
            *place = self.place().map(Box::new);
        }
        error
    }
}

//! What can go wrong below the recordings: one enum, every message a sentence with what, found and allowed.

use crate::caps::Need;
use crate::trail::Place;

fn said(place: &Option<Box<Place>>) -> String {
    place.as_ref().map_or_else(String::new, |place| format!("; {place}"))
}

/// Errors of devices, memory and submissions.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "the Vulkan loader could not be opened ({reason}); install it (Debian, Ubuntu: libvulkan1; Fedora: vulkan-loader; Arch: vulkan-icd-loader) or choose the device \"reference\""
    )]
    NoLoader { reason: String },
    #[error(
        "no Vulkan 1.3 device was found ({reason}); install a driver (mesa-vulkan-drivers has one for AMD and Intel and one in software) or choose the device \"reference\""
    )]
    NoDevice { reason: String },
    #[error("there is no device \"{wanted}\"; found: {found}; or \"reference\"")]
    NoSuchDevice { wanted: String, found: String },
    #[error("{device} lacks {need}, which {user} needs")]
    Unsupported { device: String, need: Need, user: String },
    #[error("{device} lacks {what}, which every recording needs")]
    Incapable { device: String, what: &'static str },
    #[error("out of memory for {what}: {wanted} bytes wanted{detail}")]
    OutOfMemory { what: String, wanted: u64, detail: String },
    #[error("{what} is {found}, but {device} allows at most {allowed}")]
    Limit { device: String, what: String, found: u64, allowed: u64 },
    #[error("{what} cannot be imported: {reason}")]
    Import { what: String, reason: String },
    #[error("{call} failed: {result}")]
    Vulkan { call: &'static str, result: String },
    #[error("the device was lost during {doing}; the work submitted to it did not finish{}", said(place))]
    Lost {
        doing: String,
        /// Where it stood, as far as the device noted it.
        place: Option<Box<Place>>,
    },
    #[error("{doing} made no progress for {seconds} s; the submission was given up{}", said(place))]
    Timeout { doing: String, seconds: u64, place: Option<Box<Place>> },
    #[error(
        "{device} was lost and belongs to the program that lent it, which must open it again and hand over the new one"
    )]
    Lent { device: String },
    #[error("{label}: {reason}")]
    Recording { label: String, reason: String },
}

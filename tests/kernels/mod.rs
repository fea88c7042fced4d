//! The kernels of every operation on the device under test, against their meanings and against properties.

mod linear;
mod weights;

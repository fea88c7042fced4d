//! The kernels of every operation on the device under test, against their meanings and against properties.

mod attention;
mod heads;
mod linear;
mod lookup;
mod rows;
mod sampling;
mod weights;

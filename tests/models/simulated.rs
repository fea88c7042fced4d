//! Devices that are made to look discrete, small or poor compute what any device computes.

use vkllm::{Activations, DeviceKind, Need, Simulated};

use super::golden::Golden;
use super::{check_some, data};
use crate::harness;

/// The checked-in golden models. `VKLLM_TEST_SIMULATE` runs everything else on such a device.
fn passes(kind: Simulated, looks: impl Fn(&vkllm::Caps) -> bool) {
    let Some(device) = harness::simulated(kind) else { return };
    assert!(looks(device.caps()), "{:?}", device.caps());
    for activations in [Activations::Float, Activations::Int8] {
        check_some(&device, activations, &Golden::folder(&data("golden")));
    }
}

#[test]
fn a_discrete_device_agrees() {
    passes(Simulated::Discrete, |caps| caps.kind == DeviceKind::Discrete && caps.memory.len() == 3);
}

#[test]
fn a_small_device_agrees() {
    passes(Simulated::Small, |caps| {
        (caps.max_binding, caps.offset_alignment, caps.max_shared, caps.max_workgroup)
            == (128 << 20, 256, 16 << 10, 128)
    });
}

#[test]
fn a_poor_device_agrees() {
    passes(Simulated::Poor, |caps| !caps.has(Need::Float16) && !caps.has(Need::SubgroupArithmetic));
}

//! A model on a device that the program opened itself, with its own use of the queue beside.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vkllm::{Device, DeviceOptions, Error, Model, ModelOptions, SamplerOptions, Session};
use vkllm_runtime::ash::{self, vk};
use vkllm_runtime::{Borrowed, Error as DeviceError, QueueLock};

use crate::harness;

#[derive(Default)]
struct Lock {
    queue: Mutex<()>,
    uses: AtomicU32,
}

impl QueueLock for Lock {
    fn locked(&self, work: &mut dyn FnMut()) {
        let _turn = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.uses.fetch_add(1, Ordering::Relaxed);
        work();
    }
}

fn logits(model: &Model) -> Vec<u32> {
    let mut session = Session::new(model, SamplerOptions::greedy()).expect("a session");
    let logits = session.forward(&(1..21).collect::<Vec<u32>>()).expect("logits");
    logits.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_device_of_the_program_is_borrowed() {
    let Some(own) = harness::device() else { return };
    let options = ModelOptions { context: Some(128), ..ModelOptions::default() };
    let load = |device: &Device| super::load(device, super::built_in(), &options);
    let want = logits(&load(own));
    // SAFETY: plain Vulkan, destroyed in reverse order below.
    let entry = unsafe { ash::Entry::load() }.expect("a loader");
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
    let info = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: as above.
    let instance = unsafe { entry.create_instance(&info, None) }.expect("an instance");
    // SAFETY: as above.
    let physicals = unsafe { instance.enumerate_physical_devices() }.expect("devices");
    let name = |physical: &vk::PhysicalDevice| {
        // SAFETY: as above.
        let properties = unsafe { instance.get_physical_device_properties(*physical) };
        properties.device_name_as_c_str().expect("a name").to_string_lossy().into_owned()
    };
    let physical = physicals.into_iter().find(|p| name(p) == own.caps().name).expect("the same device");
    let create = |family: u32, features: &mut vk::PhysicalDeviceFeatures2<'_>, names: &[&std::ffi::CStr]| {
        let queues =
            [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&[0.5])];
        let pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&pointers)
            .push_next(features);
        // SAFETY: as above.
        let device = unsafe { instance.create_device(physical, &info, None) }.expect("a device");
        (device, family, names.iter().map(|&name| name.to_owned()).collect())
    };
    // SAFETY: the physical device is the instance's.
    let (device, family, extensions) =
        unsafe { Device::lendable((&entry, &instance), physical, create) }.expect("it computes");
    // SAFETY: as above.
    let queue = unsafe { device.get_device_queue(family, 0) };
    let lock = Arc::new(Lock::default());
    let (instance_too, device_too) = (instance.clone(), device.clone());
    let borrowed = Borrowed {
        entry: entry.clone(),
        instance: instance_too,
        physical,
        device: device_too,
        family,
        queue,
        lock: Arc::<Lock>::clone(&lock),
        extensions,
    };
    // SAFETY: all outlive the model, the features are those asked for, and this thread alone uses the queue.
    let borrowed = unsafe { Device::borrow(borrowed, &DeviceOptions::default()) }.expect("it is borrowed");
    assert_eq!(borrowed.caps().uuid, own.caps().uuid);
    let model = load(&borrowed);
    assert_eq!(logits(&model), want);
    let uses = lock.uses.load(Ordering::Relaxed);
    assert_eq!(u64::from(uses), borrowed.calls().submits);
    // The owner goes on using its queue.
    lock.locked(&mut || {
        // SAFETY: the queue is locked.
        unsafe { device.queue_wait_idle(queue) }.expect("idle");
    });
    borrowed.lose();
    match model.recover() {
        Err(Error::Device(error @ DeviceError::Lent { .. })) => println!("{error}"),
        other => panic!("{other:?}"),
    }
    model.recover_on(own).expect("another device takes its place");
    assert_eq!(logits(&model), want);
    drop(borrowed);
    // SAFETY: nothing is left on the device.
    unsafe {
        device.device_wait_idle().expect("idle");
        device.destroy_device(None);
        instance.destroy_instance(None);
    }
}

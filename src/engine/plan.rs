//! What a model takes in memory, counted before anything is allocated.

use vkllm_runtime::{Device, DeviceKind};

use super::ModelOptions;
use crate::cache::{BLOCK, KvLayout, KvType};
use crate::error::{Error, Result};
use crate::models::Config;

/// Bytes by purpose.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub weights: u64,
    /// Keys and values, and their types.
    pub kv: u64,
    pub k_type: KvType,
    pub v_type: KvType,
    /// Angles and scales per position.
    pub tables: u64,
    /// Transient activations of the largest step.
    pub scratch: u64,
}

impl Plan {
    /// Counts in checked arithmetic.
    ///
    /// Errors: a context whose bytes do not fit 64 bits.
    pub fn new(
        weights: u64,
        config: &Config,
        layout: &KvLayout,
        context: u32,
        options: &ModelOptions,
    ) -> Result<Self> {
        let positions = u64::from(context) * u64::from(options.sessions);
        let kv = layout.bytes(positions.div_ceil(u64::from(BLOCK))).ok_or_else(|| Error::DoesNotFit {
            what: format!("a context of {context} tokens"),
            need: u64::MAX,
            have: u64::MAX,
        })?;
        let tables = u64::from(context) * u64::from(config.rot + 1) * 4;
        let rows = u64::from(options.batch.min(context));
        let heads = u64::from(config.heads) * u64::from(config.head);
        let widest = u64::from(config.ffn) * 3 + u64::from(config.width) * 2;
        let attention = heads * 3 + u64::from(config.width) * 2;
        let scratch = rows * widest.max(attention) * 4 + u64::from(config.vocab) * 4 + (32 << 20);
        Ok(Plan { weights, kv, k_type: layout.k_type, v_type: layout.v_type, tables, scratch })
    }

    /// What two models take together; the types are the first one's.
    pub fn and(&self, other: &Plan) -> Plan {
        Plan {
            weights: self.weights.saturating_add(other.weights),
            kv: self.kv.saturating_add(other.kv),
            tables: self.tables.saturating_add(other.tables),
            scratch: self.scratch.saturating_add(other.scratch),
            ..*self
        }
    }

    /// Everything together.
    pub fn total(&self) -> u64 {
        [self.weights, self.kv, self.tables, self.scratch]
            .iter()
            .fold(0, |sum, &part| sum.saturating_add(part))
    }

    /// Refuses what cannot fit the device's memory, or the machine's where the two are one.
    pub fn check(&self, device: &Device) -> Result<()> {
        let caps = device.caps();
        let heaps = (!caps.heaps.is_empty()).then(|| caps.heaps.iter().map(|heap| heap.size).sum::<u64>());
        let shared = matches!(caps.kind, DeviceKind::Integrated | DeviceKind::Cpu | DeviceKind::Reference);
        let host = if shared { available_memory() } else { None };
        let have = [heaps, host].into_iter().flatten().min();
        match have {
            Some(have) if self.total() > have => Err(Error::DoesNotFit {
                what: format!(
                    "{} of weights, {} of cache and {} of tables and scratch on {}",
                    self.weights,
                    self.kv,
                    self.tables.saturating_add(self.scratch),
                    caps.name
                ),
                need: self.total(),
                have,
            }),
            _ => Ok(()),
        }
    }
}

/// Bytes the machine can still give, as Linux counts them; `None` elsewhere.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    available_in(&text)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   12345678 kB\n";
        assert_eq!(available_in(text), Some(12_345_678 * 1024));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
    }
}

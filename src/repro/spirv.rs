//! SPIR-V of cases: its outer form is checked before a driver sees it, and it can be read as assembly.

use std::collections::HashMap;

use rspirv::binary::{Consumer, Disassemble, ParseAction};
use rspirv::dr::{Instruction, ModuleHeader, Operand};
use rspirv::spirv::{GlslStd450Op, Op};

const MAGIC: u32 = 0x0723_0203;
/// Ids that a module may have; drivers make tables of this size.
const MOST_IDS: u32 = 1 << 22;
const OP_ENTRY_POINT: u32 = 15;
const OP_CAPABILITY: u32 = 17;
const GL_COMPUTE: u32 = 5;

/// Words of a module.
///
/// Errors: a sentence with what is no module.
pub fn words(bytes: &[u8]) -> Result<Vec<u32>, String> {
    if !bytes.len().is_multiple_of(4) || bytes.len() < 20 {
        return Err(format!("SPIR-V has {} bytes, not five words or more", bytes.len()));
    }
    Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
}

/// Checks header and instruction lengths, and that there is one entry point `main` for compute. This is not the validation
/// that drivers rely on.
///
/// Errors: a sentence with the word where the module is damaged.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    let words = words(bytes)?;
    if words[0] != MAGIC {
        return Err(format!("SPIR-V begins with {:#010x}, not {MAGIC:#010x}", words[0]));
    }
    if words[1] >> 16 != 1 || words[3] == 0 || words[3] > MOST_IDS {
        return Err(format!("SPIR-V has version {:#x} and {} ids", words[1], words[3]));
    }
    let (mut at, mut entries, mut capabilities) = (5, 0, 0);
    while at < words.len() {
        let (len, opcode) = ((words[at] >> 16) as usize, words[at] & 0xffff);
        let Some(code) = words.get(at..at + len).filter(|code| !code.is_empty()) else {
            return Err(format!(
                "the SPIR-V instruction at word {at} has {len} words, more than there are or none"
            ));
        };
        match opcode {
            OP_CAPABILITY => capabilities += 1,
            OP_ENTRY_POINT => {
                let name: Vec<u8> = code.iter().skip(3).flat_map(|word| word.to_le_bytes()).collect();
                if code.get(1) != Some(&GL_COMPUTE) || !name.starts_with(b"main\0") {
                    return Err(format!("the SPIR-V entry point at word {at} is not main for compute"));
                }
                entries += 1;
            }
            _ => {}
        }
        at += len;
    }
    if entries != 1 || capabilities == 0 {
        return Err(format!("SPIR-V has {entries} entry points and {capabilities} capabilities"));
    }
    Ok(())
}

/// A module as assembly from which `spirv-as --preserve-numeric-ids` makes the same instructions.
///
/// Errors: what is no module.
pub fn assembly(bytes: &[u8]) -> Result<String, String> {
    let mut listing = Listing::default();
    rspirv::binary::parse_bytes(bytes, &mut listing)
        .map_err(|error| format!("SPIR-V cannot be read: {error}"))?;
    Ok(listing.text)
}

#[derive(Default)]
struct Listing {
    text: String,
    /// Ids of float types with their bits.
    floats: HashMap<u32, u32>,
}

impl Consumer for Listing {
    fn initialize(&mut self) -> ParseAction {
        ParseAction::Continue
    }

    fn finalize(&mut self) -> ParseAction {
        ParseAction::Continue
    }

    fn consume_header(&mut self, header: ModuleHeader) -> ParseAction {
        let (major, minor) = header.version();
        self.text += &format!("; SPIR-V\n; Version: {major}.{minor}\n; Bound: {}\n", header.bound);
        ParseAction::Continue
    }

    fn consume_instruction(&mut self, instruction: Instruction) -> ParseAction {
        let constant = matches!(instruction.class.opcode, Op::Constant | Op::SpecConstant);
        let kind = instruction.result_type.filter(|_| constant);
        let float = kind.and_then(|kind| self.floats.get(&kind)).copied();
        let mut line = String::new();
        if let Some(id) = instruction.result_id {
            line += &format!("%{id} = ");
        }
        line += &format!("Op{}", instruction.class.opname);
        if let Some(kind) = instruction.result_type {
            line += &format!(" %{kind}");
        }
        for operand in &instruction.operands {
            line.push(' ');
            line += &match (operand, float) {
                (Operand::LiteralBit32(bits), Some(32)) => real(f32::from_bits(*bits)),
                (Operand::LiteralBit32(bits), Some(16)) => real(half::f16::from_bits(*bits as u16).to_f32()),
                (Operand::LiteralExtInstInteger(number), _) => {
                    GlslStd450Op::from_u32(*number).map_or_else(|| number.to_string(), |op| format!("{op:?}"))
                }
                (operand, _) => operand.disassemble(),
            };
        }
        if let (Op::TypeFloat, Some(id), Some(Operand::LiteralBit32(width))) =
            (instruction.class.opcode, instruction.result_id, instruction.operands.first())
        {
            self.floats.insert(id, *width);
        }
        self.text += &line;
        self.text.push('\n');
        ParseAction::Continue
    }
}

/// A float as the assembler reads it; what is no number has the exponent of none.
fn real(value: f32) -> String {
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if value.is_nan() {
        format!("{sign}0x1.{:06x}p+128", (value.to_bits() & 0x7f_ffff) << 1)
    } else if value.is_infinite() {
        format!("{sign}0x1p+128")
    } else {
        format!("{value:e}")
    }
}

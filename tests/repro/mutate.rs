//! Kernels with a fault put into their SPIR-V, as drivers and their compilers have made them.

use vkllm::Kernel;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Neighbouring lanes take each other's number.
    LaneSwap,
    /// A barrier is not there.
    DroppedBarrier,
    /// A product leaves the range of floats.
    Overflow,
    /// A float constant has another value.
    WrongConstant,
    /// A sum of integers is one too large.
    OffByOne,
    /// A product is NaN.
    Nan,
    /// A sum is a difference.
    WrongSign,
}

impl Fault {
    pub const ALL: [Fault; 7] = [
        Fault::LaneSwap,
        Fault::DroppedBarrier,
        Fault::Overflow,
        Fault::WrongConstant,
        Fault::OffByOne,
        Fault::Nan,
        Fault::WrongSign,
    ];
}

const OP_CONSTANT: u32 = 43;
const OP_FUNCTION: u32 = 54;
const OP_VARIABLE: u32 = 59;
const OP_LOAD: u32 = 61;
const OP_DECORATE: u32 = 71;
const OP_IADD: u32 = 128;
const OP_FADD: u32 = 129;
const OP_FSUB: u32 = 131;
const OP_FMUL: u32 = 133;
const OP_XOR: u32 = 198;
const OP_BARRIER: u32 = 224;
const OP_NOP: u32 = 0;
const BUILT_IN: u32 = 11;
const LANES: [u32; 2] = [41, 27];

struct Module {
    header: Vec<u32>,
    code: Vec<Vec<u32>>,
}

impl Module {
    fn new(spirv: &[u8]) -> Self {
        let words: Vec<u32> =
            spirv.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let (mut code, mut at) = (Vec::new(), 5);
        while at < words.len() {
            let len = (words[at] >> 16) as usize;
            code.push(words[at..at + len].to_vec());
            at += len;
        }
        Module { header: words[..5].to_vec(), code }
    }

    fn id(&mut self) -> u32 {
        self.header[3] += 1;
        self.header[3] - 1
    }

    fn find(&self, opcode: u32) -> Vec<usize> {
        (0..self.code.len()).filter(|&i| self.code[i][0] & 0xffff == opcode).collect()
    }

    /// A constant of its own; what stands behind moves by one.
    fn constant(&mut self, kind: u32, value: u32) -> u32 {
        let id = self.id();
        let at = self.find(OP_FUNCTION)[0];
        self.code.insert(at, vec![4 << 16 | OP_CONSTANT, kind, id, value]);
        id
    }

    /// Lets another instruction on a constant follow instruction `at`, which takes over its result.
    fn append(&mut self, at: usize, opcode: u32, value: u32) {
        let (kind, result) = (self.code[at][1], self.code[at][2]);
        let (inner, constant) = (self.id(), self.constant(kind, value));
        let at = at + 1;
        self.code[at][2] = inner;
        self.code.insert(at + 1, vec![5 << 16 | opcode, kind, result, inner, constant]);
    }

    /// Whether a type is f32; vectors and other sizes are left alone.
    fn is_float(&self, kind: u32) -> bool {
        self.code.iter().any(|code| code[0] & 0xffff == 22 && code[1] == kind && code[2] == 32)
    }

    fn is_integer(&self, kind: u32) -> bool {
        self.code.iter().any(|code| code[0] & 0xffff == 21 && code[1] == kind && code[2] == 32)
    }

    fn bytes(&self) -> Vec<u8> {
        let all = self.header.iter().chain(self.code.iter().flatten());
        all.flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// The `nth` place (modulo their number) where a fault can be put, with the fault; `None` when there is no such place.
pub fn mutant(kernel: &'static Kernel, fault: Fault, nth: usize) -> Option<&'static Kernel> {
    let mut module = Module::new(kernel.spirv);
    let pick = |places: Vec<usize>| (!places.is_empty()).then(|| places[nth % places.len()]);
    let typed = |module: &Module, opcode: u32, float: bool| -> Vec<usize> {
        let fits = |kind| if float { module.is_float(kind) } else { module.is_integer(kind) };
        module.find(opcode).into_iter().filter(|&at| fits(module.code[at][1])).collect()
    };
    match fault {
        Fault::LaneSwap => {
            let lanes: Vec<u32> = module
                .find(OP_DECORATE)
                .into_iter()
                .filter(|&at| {
                    module.code[at].get(2) == Some(&BUILT_IN) && LANES.contains(&module.code[at][3])
                })
                .map(|at| module.code[at][1])
                .collect();
            assert!(module.find(OP_VARIABLE).len() >= lanes.len());
            let loads = typed(&module, OP_LOAD, false);
            let loads = loads.into_iter().filter(|&at| lanes.contains(&module.code[at][3])).collect();
            module.append(pick(loads)?, OP_XOR, 1);
        }
        Fault::DroppedBarrier => {
            let at = pick(module.find(OP_BARRIER))?;
            module.code[at] = vec![1 << 16 | OP_NOP];
        }
        Fault::Overflow => module.append(pick(typed(&module, OP_FMUL, true))?, OP_FMUL, 3.0e38f32.to_bits()),
        Fault::WrongConstant => {
            let zero = |at: &usize| f32::from_bits(module.code[*at][3]) != 0.0;
            let at = pick(typed(&module, OP_CONSTANT, true).into_iter().filter(zero).collect())?;
            module.code[at][3] = (f32::from_bits(module.code[at][3]) * 1.5).to_bits();
        }
        Fault::OffByOne => module.append(pick(typed(&module, OP_IADD, false))?, OP_IADD, 1),
        Fault::Nan => module.append(pick(typed(&module, OP_FMUL, true))?, OP_FADD, f32::NAN.to_bits()),
        Fault::WrongSign => {
            let at = pick(typed(&module, OP_FADD, true))?;
            module.code[at][0] = 5 << 16 | OP_FSUB;
        }
    }
    let hash = kernel.hash ^ (fault as u64 + 1) << 32 ^ (nth as u64 + 1);
    Some(Box::leak(Box::new(Kernel { spirv: module.bytes().leak(), hash, ..*kernel })))
}

/// A module of the right form that no compiler bears: none of its types is there.
pub fn untyped(kernel: &'static Kernel) -> &'static Kernel {
    let mut module = Module::new(kernel.spirv);
    module.code.retain(|code| !(19..=33).contains(&(code[0] & 0xffff)));
    Box::leak(Box::new(Kernel { spirv: module.bytes().leak(), hash: !kernel.hash, ..*kernel }))
}

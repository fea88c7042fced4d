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
    /// A product is rounded to f16, beyond whose range it is infinite.
    Half,
    /// A float constant has another value.
    WrongConstant,
    /// A sum of integers is one too large.
    OffByOne,
    /// A product is NaN.
    Nan,
    /// A sum is its first term.
    LostTerm,
    /// A product is a square.
    Squared,
    /// The arms of a selection are exchanged.
    OtherArm,
    /// A word is not stored.
    LostStore,
    /// The word behind the one meant is read or written.
    NextWord,
    /// An instruction is another one of the same form.
    Swap(&'static str, u32, u32),
    /// A function of the extended set is another one.
    Function(&'static str, u32, u32),
}

impl Fault {
    /// A sum is a difference.
    pub const WRONG_SIGN: Fault = Fault::Swap("sum is difference", OP_FADD, 131);

    pub const ALL: &[Fault] = &[
        Fault::LaneSwap,
        Fault::DroppedBarrier,
        Fault::Overflow,
        Fault::WrongConstant,
        Fault::OffByOne,
        Fault::Nan,
        Fault::WRONG_SIGN,
        Fault::Half,
        Fault::LostTerm,
        Fault::Squared,
        Fault::OtherArm,
        Fault::LostStore,
        Fault::NextWord,
        Fault::Swap("difference is sum", 131, OP_FADD),
        Fault::Swap("product is sum", OP_FMUL, OP_FADD),
        Fault::Swap("product is quotient", OP_FMUL, 136),
        Fault::Swap("quotient is product", 136, OP_FMUL),
        Fault::Swap("integer sum is difference", OP_IADD, 130),
        Fault::Swap("integer difference is sum", 130, OP_IADD),
        Fault::Swap("integer product is sum", 132, OP_IADD),
        Fault::Swap("quotient is remainder", 134, 137),
        Fault::Swap("remainder is quotient", 137, 134),
        Fault::Swap("less is at most", 176, 178),
        Fault::Swap("at most is less", 178, 176),
        Fault::Swap("equal is unequal", 170, 171),
        Fault::Swap("float less is greater", 184, 186),
        Fault::Swap("right shift is left", 194, 196),
        Fault::Swap("and is or", 199, 197),
        Fault::Swap("or is and", 197, 199),
        Fault::Swap("logical and is or", 167, 166),
        Fault::Swap("signed is unsigned in conversion", 111, 112),
        Fault::Swap("signed dot is unsigned", 4450, 4451),
        Fault::Function("max is min", 40, 37),
        Fault::Function("min is max", 37, 40),
        Fault::Function("clamp of an index is not there", 38, 41),
        Fault::Function("exp is exp2", 27, 29),
        Fault::Function("inversesqrt is sqrt", 32, 31),
        Fault::Function("size is sign", 4, 6),
        Fault::Function("round is floor", 2, 8),
    ];

    /// Whether it may keep a loop from ending where the data decide that.
    fn loops(self) -> bool {
        match self {
            Fault::OtherArm | Fault::NextWord | Fault::LostStore => true,
            Fault::Swap(_, from, _) => !(OP_FADD..=136).contains(&from) || matches!(from, 130 | 132 | 134),
            _ => false,
        }
    }
}

/// Operations with loops of that kind.
const DATA_LOOPS: &[&str] = &["attention", "sample", "sample_truncate"];

const OP_EXT_INST: u32 = 12;
const OP_CONSTANT: u32 = 43;
const OP_FUNCTION: u32 = 54;
const OP_VARIABLE: u32 = 59;
const OP_LOAD: u32 = 61;
const OP_STORE: u32 = 62;
const OP_ACCESS_CHAIN: u32 = 65;
const OP_DECORATE: u32 = 71;
const OP_COPY_OBJECT: u32 = 83;
const OP_QUANTIZE: u32 = 116;
const OP_IADD: u32 = 128;
const OP_FADD: u32 = 129;
const OP_FMUL: u32 = 133;
const OP_SELECT: u32 = 169;
const OP_XOR: u32 = 198;
const OP_BARRIER: u32 = 224;
const OP_PHI: u32 = 245;
const OP_NOP: u32 = 0;
const BUILT_IN: u32 = 11;
const STORAGE_BUFFER: u32 = 12;
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

    /// The instruction that makes a result.
    fn of(&self, id: u32) -> Option<usize> {
        let function = self.find(OP_FUNCTION)[0];
        (function..self.code.len()).find(|&at| self.code[at].len() > 2 && self.code[at][2] == id)
    }

    /// Whether a loop or branch carries on what an instruction makes.
    fn is_carried(&self, at: usize) -> bool {
        let id = self.code[at][2];
        self.find(OP_PHI).iter().any(|&phi| self.code[phi][3..].iter().step_by(2).any(|&from| from == id))
    }

    /// Accesses to storage buffers whose last index is an unsigned number that some instruction makes.
    fn accesses(&self) -> Vec<usize> {
        let chains = self.find(OP_ACCESS_CHAIN).into_iter();
        chains
            .filter(|&at| {
                let base = self.code[at][3];
                let is_buffer = |&variable: &usize| {
                    self.code[variable][2] == base && self.code[variable][3] == STORAGE_BUFFER
                };
                let index = self.code[at][self.code[at].len() - 1];
                self.find(OP_VARIABLE).iter().any(is_buffer)
                    && self.of(index).is_some_and(|made| self.is_integer(self.code[made][1]))
            })
            .collect()
    }

    fn bytes(&self) -> Vec<u8> {
        let all = self.header.iter().chain(self.code.iter().flatten());
        all.flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// The `nth` place (modulo their number) where a fault can be put, with the fault; `None` when there is no such place.
pub fn mutant(kernel: &'static Kernel, fault: Fault, nth: usize) -> Option<&'static Kernel> {
    if fault.loops() && DATA_LOOPS.contains(&kernel.op) {
        return None;
    }
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
        Fault::Half => {
            let at = pick(typed(&module, OP_FMUL, true))?;
            let (kind, result, inner) = (module.code[at][1], module.code[at][2], module.id());
            module.code[at][2] = inner;
            module.code.insert(at + 1, vec![4 << 16 | OP_QUANTIZE, kind, result, inner]);
        }
        Fault::WrongConstant => {
            let zero = |at: &usize| f32::from_bits(module.code[*at][3]) != 0.0;
            let at = pick(typed(&module, OP_CONSTANT, true).into_iter().filter(zero).collect())?;
            module.code[at][3] = (f32::from_bits(module.code[at][3]) * 1.5).to_bits();
        }
        Fault::OffByOne => module.append(pick(typed(&module, OP_IADD, false))?, OP_IADD, 1),
        Fault::Nan => module.append(pick(typed(&module, OP_FMUL, true))?, OP_FADD, f32::NAN.to_bits()),
        Fault::LostTerm => {
            let at = pick(module.find(OP_FADD))?;
            let code = &module.code[at];
            module.code[at] = vec![4 << 16 | OP_COPY_OBJECT, code[1], code[2], code[3]];
        }
        Fault::Squared => {
            let at = pick(module.find(OP_FMUL))?;
            module.code[at][4] = module.code[at][3];
        }
        Fault::OtherArm => {
            let at = pick(module.find(OP_SELECT).into_iter().filter(|&at| !module.is_carried(at)).collect())?;
            module.code[at].swap(4, 5);
        }
        Fault::LostStore => {
            let accesses: Vec<u32> = module.accesses().iter().map(|&at| module.code[at][2]).collect();
            let stores = module.find(OP_STORE).into_iter();
            let at = pick(stores.filter(|&at| accesses.contains(&module.code[at][1])).collect())?;
            module.code[at] = vec![1 << 16 | OP_NOP];
        }
        Fault::NextWord => {
            let at = pick(module.accesses())?;
            let index = module.code[at][module.code[at].len() - 1];
            let kind = module.code[module.of(index)?][1];
            let (next, one) = (module.id(), module.constant(kind, 1));
            let at = at + 1;
            *module.code[at].last_mut()? = next;
            module.code.insert(at, vec![5 << 16 | OP_IADD, kind, next, index, one]);
        }
        Fault::Swap(_, from, to) => {
            let places = module.find(from).into_iter().filter(|&at| !module.is_carried(at));
            let at = pick(places.collect())?;
            module.code[at][0] = module.code[at][0] & 0xffff_0000 | to;
        }
        Fault::Function(_, from, to) => {
            let functions = module.find(OP_EXT_INST).into_iter();
            let at = pick(functions.filter(|&at| module.code[at][4] == from).collect())?;
            module.code[at][4] = to;
        }
    }
    let number = Fault::ALL.iter().position(|other| *other == fault).unwrap_or(usize::MAX >> 1);
    let hash = kernel.hash ^ (number as u64 + 1) << 32 ^ (nth as u64 + 1);
    Some(Box::leak(Box::new(Kernel { spirv: module.bytes().leak(), hash, ..*kernel })))
}

/// A module of the right form that no compiler bears: none of its types is there.
pub fn untyped(kernel: &'static Kernel) -> &'static Kernel {
    let mut module = Module::new(kernel.spirv);
    module.code.retain(|code| !(19..=33).contains(&(code[0] & 0xffff)));
    Box::leak(Box::new(Kernel { spirv: module.bytes().leak(), hash: !kernel.hash, ..*kernel }))
}

/// A module that asks for 64-bit floats, which no device is opened with.
pub fn demanding(kernel: &'static Kernel) -> &'static Kernel {
    const FLOAT64: [u32; 2] = [2 << 16 | 17, 10];
    let mut module = Module::new(kernel.spirv);
    module.code.insert(0, FLOAT64.to_vec());
    Box::leak(Box::new(Kernel { spirv: module.bytes().leak(), hash: !kernel.hash ^ 1, ..*kernel }))
}

//! Reads the interface of a module out of its SPIR-V: buffers and how they are touched, the push block,
//! specialisation constants, and the device features the code needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use rspirv::binary::{Consumer, ParseAction};
use rspirv::dr::{Instruction, ModuleHeader, Operand};
use rspirv::spirv::{Capability, Decoration, ExecutionMode, Op, StorageClass};

use super::compile::Compiled;
use super::interface::{Binding, Field, Kernel, Record, Spec};

/// Storage buffers every Vulkan device we care for can bind at once.
const MAX_BUFFERS: usize = 12;
/// Push bytes every Vulkan device has.
const MAX_PUSH: u32 = 128;

/// The interface of a compiled module.
pub(crate) fn reflect(compiled: &Compiled) -> Result<Kernel> {
    let named = Spirv::load(&compiled.named)?;
    let mut records = BTreeMap::new();
    let mut bindings = named.bindings(&compiled.used, &mut records)?;
    let (push, push_size) = named.push()?;
    link_views(&mut bindings, &push)?;
    let specs = named.specs()?;
    let local_size = named.local_size(&specs)?;
    // What the driver is given decides what it must be able to do.
    let needs = Spirv::load(&compiled.shipped)?.needs()?;
    Ok(Kernel { bindings, push, push_size, specs, needs, local_size, records })
}

/// Gives every binding the offset of its `<name>_at` field; these fields come first, in binding order.
fn link_views(bindings: &mut [Binding], push: &[Field]) -> Result<()> {
    let mut fields = push.iter().filter(|field| field.name.ends_with("_at")).peekable();
    for binding in bindings.iter_mut() {
        if let Some(field) = fields.next_if(|field| field.name.strip_suffix("_at") == Some(&binding.name)) {
            ensure!(field.scalar == "u32", "push field {} must be a uint", field.name);
            binding.at = Some(field.offset);
        }
    }
    if let Some(field) = fields.next() {
        let names: Vec<&str> = bindings.iter().map(|binding| binding.name.as_str()).collect();
        bail!("push field {}: expected <name>_at in binding order ({})", field.name, names.join(", "));
    }
    let first_other = push.iter().position(|field| !field.name.ends_with("_at")).unwrap_or(push.len());
    if let Some(late) = push[first_other..].iter().find(|field| field.name.ends_with("_at")) {
        bail!("push field {} comes after {}: the _at fields come first", late.name, push[first_other].name);
    }
    Ok(())
}

/// Keeps instructions in their order. (rspirv's own loader does not know OpExecutionModeId.)
#[derive(Default)]
struct Flat(Vec<Instruction>);

impl Consumer for Flat {
    fn initialize(&mut self) -> ParseAction {
        ParseAction::Continue
    }

    fn finalize(&mut self) -> ParseAction {
        ParseAction::Continue
    }

    fn consume_header(&mut self, _: ModuleHeader) -> ParseAction {
        ParseAction::Continue
    }

    fn consume_instruction(&mut self, instruction: Instruction) -> ParseAction {
        if instruction.class.opcode == Op::Function {
            return ParseAction::Stop;
        }
        self.0.push(instruction);
        ParseAction::Continue
    }
}

/// What stands before the functions of a module.
struct Spirv {
    globals: Vec<Instruction>,
    names: HashMap<u32, String>,
    member_names: HashMap<(u32, u32), String>,
    /// Decorations with their first literal, by target and, for members, index.
    decorations: HashMap<(u32, Option<u32>), Vec<(Decoration, u32)>>,
    /// Where the instruction that defines an id stands.
    definitions: HashMap<u32, usize>,
}

impl Spirv {
    fn load(words: &[u32]) -> Result<Self> {
        let mut flat = Flat::default();
        match rspirv::binary::parse_words(words, &mut flat) {
            Ok(()) | Err(rspirv::binary::ParseState::ConsumerStopRequested) => {}
            Err(error) => bail!("cannot read the SPIR-V: {error}"),
        }
        let mut spirv = Self {
            names: HashMap::new(),
            member_names: HashMap::new(),
            decorations: HashMap::new(),
            definitions: HashMap::new(),
            globals: flat.0,
        };
        for name in &spirv.globals {
            match (name.class.opcode, &name.operands[..]) {
                (Op::Name, [Operand::IdRef(id), Operand::LiteralString(text)]) => {
                    spirv.names.insert(*id, text.clone());
                }
                (
                    Op::MemberName,
                    [Operand::IdRef(id), Operand::LiteralBit32(member), Operand::LiteralString(text)],
                ) => {
                    spirv.member_names.insert((*id, *member), text.clone());
                }
                _ => {}
            }
        }
        for annotation in &spirv.globals {
            let (target, decoration, value) = match (annotation.class.opcode, &annotation.operands[..]) {
                (Op::Decorate, [Operand::IdRef(id), Operand::Decoration(decoration), rest @ ..]) => {
                    ((*id, None), *decoration, rest.first())
                }
                (
                    Op::MemberDecorate,
                    [
                        Operand::IdRef(id),
                        Operand::LiteralBit32(member),
                        Operand::Decoration(decoration),
                        rest @ ..,
                    ],
                ) => ((*id, Some(*member)), *decoration, rest.first()),
                _ => continue,
            };
            let value = if let Some(Operand::LiteralBit32(value)) = value { *value } else { 0 };
            spirv.decorations.entry(target).or_default().push((decoration, value));
        }
        for (index, instruction) in spirv.globals.iter().enumerate() {
            if let Some(id) = instruction.result_id {
                spirv.definitions.insert(id, index);
            }
        }
        Ok(spirv)
    }

    fn definition(&self, id: u32) -> Result<&Instruction> {
        let index = self.definitions.get(&id).with_context(|| format!("SPIR-V id {id} has no definition"))?;
        Ok(&self.globals[*index])
    }

    fn name(&self, id: u32) -> &str {
        self.names.get(&id).map_or("", String::as_str)
    }

    fn decoration(&self, target: (u32, Option<u32>), wanted: Decoration) -> Option<u32> {
        self.decorations
            .get(&target)?
            .iter()
            .find(|(decoration, _)| *decoration == wanted)
            .map(|(_, value)| *value)
    }

    /// Global variables of a storage class, with the type they point to.
    fn variables(&self, class: StorageClass) -> Result<Vec<(u32, u32)>> {
        let mut variables = Vec::new();
        for instruction in &self.globals {
            if instruction.class.opcode == Op::Variable
                && instruction.operands.first() == Some(&Operand::StorageClass(class))
                && let (Some(id), Some(pointer)) = (instruction.result_id, instruction.result_type)
            {
                variables.push((id, id_at(self.definition(pointer)?, 1)?));
            }
        }
        Ok(variables)
    }

    fn bindings(
        &self,
        used: &BTreeMap<String, (bool, bool)>,
        records: &mut BTreeMap<String, Record>,
    ) -> Result<Vec<Binding>> {
        struct Declared {
            name: String,
            reads: bool,
            writes: bool,
            stride: u32,
        }
        let mut declared: BTreeMap<u32, Vec<Declared>> = BTreeMap::new();
        for (variable, block) in self.variables(StorageClass::StorageBuffer)? {
            let binding = self
                .decoration((variable, None), Decoration::Binding)
                .with_context(|| format!("buffer {} has no binding", self.name(block)))?;
            let set = self.decoration((variable, None), Decoration::DescriptorSet).unwrap_or(0);
            ensure!(set == 0, "binding {binding} is in set {set}; only set 0 is used");
            let members = &self.definition(block)?.operands;
            ensure!(
                members.len() == 1,
                "binding {binding} has {} members; one runtime array is allowed",
                members.len()
            );
            let array = id_at(self.definition(block)?, 0)?;
            let array_type = self.definition(array)?;
            ensure!(
                array_type.class.opcode == Op::TypeRuntimeArray,
                "binding {binding} must hold one runtime array, as in `buffer X {{ float x[]; }};`"
            );
            // GLSL blocks have no instance name, so their variable has none; WGSL variables have.
            let name = match self.name(variable) {
                "" => self.member_names.get(&(block, 0)).cloned().unwrap_or_default(),
                name => name.to_owned(),
            };
            ensure!(!name.is_empty(), "binding {binding} has no name");
            let has = |wanted| {
                self.decoration((variable, None), wanted)
                    .or(self.decoration((block, Some(0)), wanted))
                    .is_some()
            };
            let (mut reads, mut writes) = (!has(Decoration::NonReadable), !has(Decoration::NonWritable));
            if let Some(&(does_read, does_write)) = used.get(&name) {
                // A buffer that is declared and unused still is what its declaration says.
                (reads, writes) =
                    if does_read || does_write { (does_read, does_write) } else { (reads, writes) };
            }
            let stride = self
                .decoration((array, None), Decoration::ArrayStride)
                .with_context(|| format!("{name} has no array stride"))?;
            let element = id_at(array_type, 0)?;
            if self.definition(element)?.class.opcode == Op::TypeStruct {
                let (record, value) = self.record(element, stride)?;
                ensure!(
                    records.insert(record.clone(), value.clone()).is_none_or(|other| other == value),
                    "two different structs are called {record}"
                );
            }
            declared.entry(binding).or_default().push(Declared { name, reads, writes, stride });
        }
        ensure!(
            declared.len() <= MAX_BUFFERS,
            "{} buffers; at most {MAX_BUFFERS} are allowed",
            declared.len()
        );
        let mut bindings: Vec<Binding> = Vec::new();
        for (index, aliases) in declared {
            ensure!(
                index as usize == bindings.len(),
                "binding {} is missing: bindings are dense",
                bindings.len()
            );
            let name = aliases.iter().map(|alias| &alias.name).min_by_key(|name| name.len());
            let name = name.context("a binding has no declaration")?.clone();
            if let Some(alias) = aliases.iter().find(|alias| !alias.name.starts_with(&name)) {
                bail!(
                    "binding {index} is called both {name} and {}: aliases start with the shortest",
                    alias.name
                );
            }
            ensure!(bindings.iter().all(|other| other.name != name), "two bindings are called {name}");
            let reads = aliases.iter().any(|alias| alias.reads);
            let access = match (reads, aliases.iter().any(|alias| alias.writes)) {
                (true, true) => "ReadWrite",
                (true, false) => "Read",
                (false, true) => "Write",
                (false, false) => bail!("{name} is neither readable nor writable"),
            };
            let stride = aliases.iter().map(|alias| alias.stride).max().unwrap_or(4);
            bindings.push(Binding { name, access: access.to_owned(), stride, at: None });
        }
        Ok(bindings)
    }

    fn record(&self, id: u32, stride: u32) -> Result<(String, Record)> {
        let name = self.name(id).to_owned();
        ensure!(!name.is_empty(), "a buffer holds structs without a name");
        let record = Record { size: stride, fields: self.fields(id, &name)? };
        Ok((name, record))
    }

    /// Members of a struct: scalars, or vectors and arrays of them.
    fn fields(&self, id: u32, of: &str) -> Result<Vec<Field>> {
        let mut fields = Vec::new();
        for member in 0..self.definition(id)?.operands.len() {
            let key = (id, member as u32);
            let name = self
                .member_names
                .get(&key)
                .with_context(|| format!("member {member} of {of} has no name"))?;
            let offset = self
                .decoration((id, Some(member as u32)), Decoration::Offset)
                .with_context(|| format!("{of}.{name} has no offset"))?;
            let (scalar, count) = self
                .scalars(id_at(self.definition(id)?, member)?)
                .with_context(|| format!("{of}.{name} is not made of 4-byte scalars"))?;
            fields.push(Field { name: name.clone(), scalar: scalar.to_owned(), count, offset });
        }
        Ok(fields)
    }

    fn scalars(&self, id: u32) -> Result<(&'static str, u32)> {
        let definition = self.definition(id)?;
        let literal = |index: usize| match definition.operands.get(index) {
            Some(Operand::LiteralBit32(value)) => *value,
            _ => 0,
        };
        match definition.class.opcode {
            Op::TypeInt if literal(0) == 32 => Ok((if literal(1) == 1 { "i32" } else { "u32" }, 1)),
            Op::TypeFloat if literal(0) == 32 => Ok(("f32", 1)),
            Op::TypeVector => {
                let (scalar, count) = self.scalars(id_at(definition, 0)?)?;
                Ok((scalar, count * literal(1)))
            }
            Op::TypeArray => {
                let (scalar, count) = self.scalars(id_at(definition, 0)?)?;
                let stride = self.decoration((id, None), Decoration::ArrayStride);
                ensure!(stride == Some(4 * count), "its array stride leaves gaps");
                Ok((scalar, count * self.constant(id_at(definition, 1)?)?))
            }
            other => bail!("it is a {other:?}"),
        }
    }

    fn constant(&self, id: u32) -> Result<u32> {
        let definition = self.definition(id)?;
        match (definition.class.opcode, definition.operands.first()) {
            (Op::Constant | Op::SpecConstant, Some(Operand::LiteralBit32(value))) => Ok(*value),
            (Op::SpecConstantTrue, _) => Ok(1),
            (Op::SpecConstantFalse, _) => Ok(0),
            (other, _) => bail!("a constant is made by {other:?}; 32-bit constants are allowed"),
        }
    }

    fn push(&self) -> Result<(Vec<Field>, u32)> {
        let variables = self.variables(StorageClass::PushConstant)?;
        let Some(&(_, mut block)) = variables.first() else { return Ok((Vec::new(), 0)) };
        ensure!(variables.len() == 1, "{} push constant blocks; one is allowed", variables.len());
        // naga wraps the block once more when the struct is used elsewhere too.
        let definition = self.definition(block)?;
        if let [Operand::IdRef(inner)] = definition.operands[..]
            && self.definition(inner)?.class.opcode == Op::TypeStruct
        {
            block = inner;
        }
        let fields = self.fields(block, "push")?;
        if let Some(field) = fields.iter().find(|field| field.count != 1) {
            bail!("push.{} is not a scalar", field.name);
        }
        let size = fields.iter().map(|field| field.offset + 4).max().unwrap_or(0);
        ensure!(size <= MAX_PUSH, "the push block has {size} bytes; at most {MAX_PUSH} are allowed");
        Ok((fields, size))
    }

    fn specs(&self) -> Result<Vec<Spec>> {
        let mut specs: BTreeMap<u32, Spec> = BTreeMap::new();
        for instruction in &self.globals {
            let Some(constant) = instruction.result_id else { continue };
            let Some(id) = self.decoration((constant, None), Decoration::SpecId) else { continue };
            let spec = Spec { name: self.name(constant).to_owned(), id, default: self.constant(constant)? };
            // The compiler makes a nameless twin of the constant that local_size_x_id refers to.
            let other = specs.entry(id).or_insert_with(|| spec.clone());
            if other.name.is_empty() {
                *other = spec;
            } else if !spec.name.is_empty() && other.name != spec.name {
                bail!("specialisation constant {id} is called both {} and {}", other.name, spec.name);
            }
        }
        for spec in specs.values() {
            let Spec { name, id, .. } = spec;
            ensure!(
                !name.is_empty()
                    && name.chars().all(|c| c == '_' || c.is_ascii_uppercase() || c.is_ascii_digit()),
                "specialisation constant {id} is called {name:?}; names are UPPER_CASE"
            );
            ensure!(
                (*id == 0) == (name == "WG") && (name != "SG" || *id == 1),
                "specialisation constant {name} has id {id}; WG has id 0, and nothing else has; SG has id 1"
            );
        }
        Ok(specs.into_values().collect())
    }

    /// Workgroup size, 0 in x where `WG` sets it.
    fn local_size(&self, specs: &[Spec]) -> Result<[u32; 3]> {
        for mode in &self.globals {
            if !matches!(mode.class.opcode, Op::ExecutionMode | Op::ExecutionModeId) {
                continue;
            }
            let operands = mode.operands.get(2..).unwrap_or_default();
            let mut size = [1; 3];
            match mode.operands.get(1) {
                Some(Operand::ExecutionMode(ExecutionMode::LocalSize)) => {
                    for (size, operand) in size.iter_mut().zip(operands) {
                        *size = if let Operand::LiteralBit32(value) = operand { *value } else { 1 };
                    }
                }
                Some(Operand::ExecutionMode(ExecutionMode::LocalSizeId)) => {
                    for (axis, (size, operand)) in size.iter_mut().zip(operands).enumerate() {
                        let Operand::IdRef(id) = operand else { bail!("LocalSizeId takes ids") };
                        *size = match self.decoration((*id, None), Decoration::SpecId) {
                            None => self.constant(*id)?,
                            Some(0) if axis == 0 => 0,
                            Some(spec) => {
                                bail!("local_size of axis {axis} is specialised by {spec}; only x is, by 0")
                            }
                        };
                    }
                }
                _ => continue,
            }
            ensure!(
                size[0] != 0 || specs.iter().any(|spec| spec.name == "WG"),
                "local_size_x_id = 0 needs `layout(constant_id = 0) const uint WG`"
            );
            return Ok(size);
        }
        bail!("the module has no workgroup size")
    }

    fn needs(&self) -> Result<Vec<String>> {
        let mut needs = BTreeSet::new();
        for instruction in &self.globals {
            if let (Op::Capability, [Operand::Capability(capability)]) =
                (instruction.class.opcode, &instruction.operands[..])
            {
                needs.extend(need(*capability)?);
            }
        }
        Ok(needs.into_iter().map(str::to_owned).collect())
    }
}

/// The variant of `vkllm_runtime::Need` behind a capability; `None` for what every Vulkan 1.3 device has.
fn need(capability: Capability) -> Result<Option<&'static str>> {
    Ok(Some(match capability {
        Capability::Shader | Capability::Matrix => return Ok(None),
        Capability::Float16 => "Float16",
        Capability::Int8 => "Int8",
        Capability::Int16 => "Int16",
        Capability::Int64 => "Int64",
        Capability::StorageBuffer8BitAccess | Capability::UniformAndStorageBuffer8BitAccess => "Storage8",
        Capability::StorageBuffer16BitAccess | Capability::UniformAndStorageBuffer16BitAccess => "Storage16",
        Capability::DotProduct
        | Capability::DotProductInputAll
        | Capability::DotProductInput4x8Bit
        | Capability::DotProductInput4x8BitPacked => "IntegerDot",
        Capability::GroupNonUniform | Capability::GroupNonUniformVote => "SubgroupBasic",
        Capability::GroupNonUniformArithmetic => "SubgroupArithmetic",
        Capability::GroupNonUniformShuffle => "SubgroupShuffle",
        Capability::GroupNonUniformBallot => "SubgroupBallot",
        Capability::CooperativeMatrixKHR => "CooperativeMatrix",
        Capability::VulkanMemoryModel => "MemoryModel",
        other => bail!("uses the SPIR-V capability {other:?}, which is no Need in runtime/src/caps.rs"),
    }))
}

fn id_at(instruction: &Instruction, index: usize) -> Result<u32> {
    match instruction.operands.get(index) {
        Some(Operand::IdRef(id)) => Ok(*id),
        other => bail!("{:?} has {other:?} where an id is expected", instruction.class.opcode),
    }
}

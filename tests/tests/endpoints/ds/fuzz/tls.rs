//! MLS messages taken apart by their structure (RFC 9420, in its notation of §2.1), damaged by somebody who knows
//! it, and put together again.

use postern_protocol::key::SigningKey;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// An integer, or what says which variant follows.
    Fixed(Vec<u8>),
    /// `opaque x<V>`
    Opaque(Vec<u8>),
    /// `T x<V>`
    List(Vec<Self>),
    Struct(Kind, Vec<Self>),
    /// Bytes that have no structure any more.
    Raw(Vec<u8>),
}

/// Which structure it is, of those that are signed; in them, and in no other, the signature is where it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `MLSMessage` of a `PublicMessage`; signature: the fourth of version, wire format, content, signature, tags.
    Public,
    /// `MLSMessage` of a `GroupInfo`, after version and wire format; signature: the last.
    GroupInfo,
    /// Signature: the last.
    KeyPackage,
    /// Signature: the last.
    LeafNode,
    Other,
}

impl Node {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Fixed(bytes) | Self::Raw(bytes) => bytes.clone(),
            Self::Opaque(bytes) => with_length(bytes),
            Self::List(items) => with_length(&encode(items)),
            Self::Struct(_, fields) => encode(fields),
        }
    }

    fn children(&mut self) -> &mut [Self] {
        match self {
            Self::List(nodes) | Self::Struct(_, nodes) => nodes,
            _ => &mut [],
        }
    }

    /// It, and all that it is made of.
    pub fn all(&self) -> Vec<Self> {
        let mut nodes = vec![self.clone()];
        if let Self::List(children) | Self::Struct(_, children) = self {
            nodes.extend(children.iter().flat_map(Self::all));
        }
        nodes
    }

    fn count(&self) -> usize {
        match self {
            Self::List(children) | Self::Struct(_, children) => {
                1 + children.iter().map(Self::count).sum::<usize>()
            }
            _ => 1,
        }
    }

    /// The node of that number, in the order of [`Node::all`].
    fn nth(&mut self, mut number: usize) -> &mut Self {
        if number == 0 {
            return self;
        }
        number -= 1;
        let counts: Vec<usize> = self.children().iter().map(Self::count).collect();
        let mut place = 0;
        while number >= counts[place] {
            number -= counts[place];
            place += 1;
        }
        self.children()[place].nth(number)
    }

    /// Calls for each structure of a kind, the inner ones first.
    pub fn each(&mut self, kind: Kind, change: &mut impl FnMut(&mut Vec<Self>)) {
        for child in self.children() {
            child.each(kind, change);
        }
        if let Self::Struct(found, fields) = self
            && *found == kind
        {
            change(fields);
        }
    }

    /// Damages one place. `pool`: what may come in from elsewhere.
    pub fn damage(&mut self, pool: &[Self], rng: &mut StdRng) {
        let place = rng.random_range(0..self.count());
        let node = self.nth(place);
        match rng.random_range(0..16) {
            0..4 => {
                // Rather what fits there, which gets further.
                let fitting: Vec<_> = pool.iter().filter(|other| node.is_like(other)).collect();
                *node = match fitting.choose(rng) {
                    Some(fitting) if rng.random_bool(0.95) => (*fitting).clone(),
                    _ => pool.choose(rng).expect("it is large").clone(),
                };
            }
            4 => *node = Self::Raw(lie(node, rng)),
            _ => match node {
                Self::Fixed(bytes) | Self::Raw(bytes) => damage_number(bytes, rng),
                Self::Opaque(bytes) => damage_bytes(bytes, rng),
                Self::List(items) => damage_list(items, pool, rng),
                Self::Struct(_, fields) => damage_list(fields, pool, rng),
            },
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(bytes), Self::Fixed(others)) | (Self::Opaque(bytes), Self::Opaque(others)) => {
                bytes.len() == others.len() && bytes != others
            }
            (Self::List(_), Self::List(_)) => true,
            (Self::Struct(kind, fields), Self::Struct(others, more)) => {
                kind == others && fields.len() == more.len()
            }
            _ => false,
        }
    }
}

fn encode(nodes: &[Node]) -> Vec<u8> {
    nodes.iter().flat_map(Node::encode).collect()
}

/// §2.1.2.
pub fn with_length(bytes: &[u8]) -> Vec<u8> {
    let form = [0x3f, 0x3fff].iter().filter(|most| bytes.len() > **most).count();
    [length(bytes.len(), form), bytes.to_vec()].concat()
}

/// In 1, 2, 4 or 8 bytes, the last of which no length may have.
fn length(length: usize, form: usize) -> Vec<u8> {
    let size = 1 << form;
    let bytes = (length as u64 | (form as u64) << (size * 8 - 2)).to_be_bytes();
    bytes[8 - size..].to_vec()
}

/// The node's content after a length that is another, or written in another way.
fn lie(node: &Node, rng: &mut StdRng) -> Vec<u8> {
    let content = match node {
        Node::List(items) => encode(items),
        Node::Opaque(bytes) => bytes.clone(),
        other => other.encode(),
    };
    let said = *[content.len(), content.len() + 1, content.len().saturating_sub(1), 0, 0x3fff, 0x3fff_ffff]
        .choose(rng)
        .expect("there are some");
    let needs = [0x3f, 0x3fff].iter().filter(|most| said > **most).count();
    [length(said, rng.random_range(needs..=3)), content].concat()
}

fn damage_number(bytes: &mut [u8], rng: &mut StdRng) {
    if bytes.is_empty() {
        return;
    }
    match rng.random_range(0..5) {
        0 => bytes.fill(0),
        1 => bytes.fill(0xff),
        2 => rng.fill(bytes),
        3 => {
            let last = bytes.len() - 1;
            bytes[last] = bytes[last].wrapping_add(if rng.random() { 1 } else { 0xff });
        }
        _ => flip(bytes, rng),
    }
}

fn flip(bytes: &mut [u8], rng: &mut StdRng) {
    let bit = rng.random_range(0..bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn damage_bytes(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    match rng.random_range(0..6) {
        0 => bytes.clear(),
        1 => bytes.truncate(rng.random_range(0..=bytes.len())),
        2 => bytes.push(rng.random()),
        3 => rng.fill(bytes.as_mut_slice()),
        _ if !bytes.is_empty() => flip(bytes, rng),
        _ => {}
    }
}

fn damage_list(items: &mut Vec<Node>, pool: &[Node], rng: &mut StdRng) {
    let other = pool.choose(rng).expect("it is large").clone();
    if items.is_empty() {
        return items.push(other);
    }
    let (at, to) = (rng.random_range(0..items.len()), rng.random_range(0..items.len()));
    match rng.random_range(0..6) {
        0 | 1 => {
            let copy = items[at].clone();
            items.insert(to, copy);
        }
        2 => items.swap(at, to),
        3 => items.insert(to, other),
        4 => items.clear(),
        _ => {
            items.remove(at);
        }
    }
}

/// §5.1.2.
pub fn sign(key: &SigningKey, label: &str, content: &[u8]) -> Vec<u8> {
    key.sign(&labelled(label, content)).into_bytes()
}

pub fn labelled(label: &str, content: &[u8]) -> Vec<u8> {
    [with_length(format!("MLS 1.0 {label}").as_bytes()), with_length(content)].concat()
}

/// Takes an `MLSMessage` apart; `None` if it is none.
pub fn message(bytes: &[u8]) -> Option<Node> {
    let mut reader = Reader(bytes);
    let version = reader.fixed(2)?;
    let (format, wire_format) = reader.number(2)?;
    let mut fields = vec![version, wire_format];
    let kind = match format {
        1 => {
            fields.extend(public_message(&mut reader)?);
            Kind::Public
        }
        2 => {
            // Group id, epoch, content type, authenticated data, sender data, ciphertext (§6.3).
            for read in [opaque, u64, u8, opaque, opaque, opaque] {
                fields.push(read(&mut reader)?);
            }
            Kind::Other
        }
        3 => {
            fields.push(reader.fixed(2)?);
            fields.push(reader.list(|r| r.structure(Kind::Other, &[opaque, ciphertext]))?);
            fields.push(reader.opaque()?);
            Kind::Other
        }
        4 => {
            fields.push(group_context(&mut reader)?);
            fields.push(reader.list(extension)?);
            fields.push(reader.opaque()?);
            fields.push(reader.fixed(4)?);
            fields.push(reader.opaque()?);
            Kind::GroupInfo
        }
        5 => {
            fields.push(key_package(&mut reader)?);
            Kind::Other
        }
        _ => return None,
    };
    reader.0.is_empty().then_some(Node::Struct(kind, fields))
}

struct Reader<'a>(&'a [u8]);

type Read = fn(&mut Reader<'_>) -> Option<Node>;

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn fixed(&mut self, length: usize) -> Option<Node> {
        Some(Node::Fixed(self.take(length)?.to_vec()))
    }

    fn number(&mut self, length: usize) -> Option<(u64, Node)> {
        let bytes = self.take(length)?;
        let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Some((number, Node::Fixed(bytes.to_vec())))
    }

    fn counted(&mut self) -> Option<&'a [u8]> {
        let size = 1 << (self.0.first()? >> 6);
        let bytes = self.take(size)?;
        let first = usize::from(bytes[0] & 0x3f);
        let length = bytes[1..].iter().fold(first, |length, byte| length << 8 | usize::from(*byte));
        self.take(length)
    }

    fn opaque(&mut self) -> Option<Node> {
        Some(Node::Opaque(self.counted()?.to_vec()))
    }

    fn list(&mut self, item: Read) -> Option<Node> {
        let mut reader = Reader(self.counted()?);
        let mut items = Vec::new();
        while !reader.0.is_empty() {
            items.push(item(&mut reader)?);
        }
        Some(Node::List(items))
    }

    fn structure(&mut self, kind: Kind, fields: &[Read]) -> Option<Node> {
        Some(Node::Struct(kind, fields.iter().map(|read| read(self)).collect::<Option<_>>()?))
    }

    fn optional(&mut self, value: Read) -> Option<Node> {
        let (present, presence) = self.number(1)?;
        let mut fields = vec![presence];
        if present == 1 {
            fields.push(value(self)?);
        }
        Some(Node::Struct(Kind::Other, fields))
    }
}

fn opaque(reader: &mut Reader<'_>) -> Option<Node> {
    reader.opaque()
}

fn u8(reader: &mut Reader<'_>) -> Option<Node> {
    reader.fixed(1)
}

fn u16(reader: &mut Reader<'_>) -> Option<Node> {
    reader.fixed(2)
}

fn u32(reader: &mut Reader<'_>) -> Option<Node> {
    reader.fixed(4)
}

fn u64(reader: &mut Reader<'_>) -> Option<Node> {
    reader.fixed(8)
}

fn list_of_u16(reader: &mut Reader<'_>) -> Option<Node> {
    reader.list(u16)
}

/// §6, §6.1, §6.2, without version and wire format.
fn public_message(reader: &mut Reader<'_>) -> Option<Vec<Node>> {
    let mut content = vec![reader.opaque()?, u64(reader)?];
    let (sender, sender_type) = reader.number(1)?;
    content.push(sender_type);
    // A member's leaf, or an external sender's index.
    if sender <= 2 {
        content.push(u32(reader)?);
    }
    content.push(reader.opaque()?);
    let (kind, content_type) = reader.number(1)?;
    content.push(content_type);
    content.push(match kind {
        1 => reader.opaque()?,
        2 => proposal(reader)?,
        3 => commit(reader)?,
        _ => return None,
    });
    let mut fields = vec![Node::Struct(Kind::Other, content), reader.opaque()?];
    // Confirmation tag and membership tag.
    for _ in 0..usize::from(kind == 3) + usize::from(sender == 1) {
        fields.push(reader.opaque()?);
    }
    Some(fields)
}

/// §12.4.
fn commit(reader: &mut Reader<'_>) -> Option<Node> {
    reader.structure(Kind::Other, &[|r| r.list(proposal_or_ref), |r| r.optional(update_path)])
}

fn proposal_or_ref(reader: &mut Reader<'_>) -> Option<Node> {
    let (kind, tag) = reader.number(1)?;
    let value = if kind == 1 { proposal(reader)? } else { reader.opaque()? };
    Some(Node::Struct(Kind::Other, vec![tag, value]))
}

/// §12.1, and SelfRemove (10) of draft-ietf-mls-extensions.
fn proposal(reader: &mut Reader<'_>) -> Option<Node> {
    let (kind, tag) = reader.number(2)?;
    let mut fields = vec![tag];
    match kind {
        1 => fields.push(key_package(reader)?),
        2 => fields.push(leaf_node(reader)?),
        3 => fields.push(u32(reader)?),
        4 => {
            let (psk, tag) = reader.number(1)?;
            fields.push(tag);
            if psk == 2 {
                fields.extend([u8(reader)?, reader.opaque()?, u64(reader)?]);
            } else {
                fields.push(reader.opaque()?);
            }
            fields.push(reader.opaque()?);
        }
        5 => fields.extend([reader.opaque()?, u16(reader)?, u16(reader)?, reader.list(extension)?]),
        6 => fields.push(reader.opaque()?),
        7 => fields.push(reader.list(extension)?),
        10 => {}
        _ => return None,
    }
    Some(Node::Struct(Kind::Other, fields))
}

/// §10.
fn key_package(reader: &mut Reader<'_>) -> Option<Node> {
    reader.structure(Kind::KeyPackage, &[u16, u16, opaque, leaf_node, |r| r.list(extension), opaque])
}

/// §7.2.
fn leaf_node(reader: &mut Reader<'_>) -> Option<Node> {
    let mut fields = vec![reader.opaque()?, reader.opaque()?, credential(reader)?];
    fields.push(reader.structure(Kind::Other, &[list_of_u16 as Read; 5])?);
    let (source, tag) = reader.number(1)?;
    fields.push(tag);
    match source {
        1 => fields.push(reader.structure(Kind::Other, &[u64, u64])?),
        2 => {}
        3 => fields.push(reader.opaque()?),
        _ => return None,
    }
    fields.extend([reader.list(extension)?, reader.opaque()?]);
    Some(Node::Struct(Kind::LeafNode, fields))
}

/// §5.3.
fn credential(reader: &mut Reader<'_>) -> Option<Node> {
    let (kind, tag) = reader.number(2)?;
    let value = if kind == 2 { reader.list(opaque)? } else { reader.opaque()? };
    Some(Node::Struct(Kind::Other, vec![tag, value]))
}

fn extension(reader: &mut Reader<'_>) -> Option<Node> {
    reader.structure(Kind::Other, &[u16, opaque])
}

/// §8.1.
fn group_context(reader: &mut Reader<'_>) -> Option<Node> {
    reader.structure(Kind::Other, &[u16, u16, opaque, u64, opaque, opaque, |r| r.list(extension)])
}

/// §7.6.
fn update_path(reader: &mut Reader<'_>) -> Option<Node> {
    fn node(reader: &mut Reader<'_>) -> Option<Node> {
        reader.structure(Kind::Other, &[opaque, |r| r.list(ciphertext)])
    }
    reader.structure(Kind::Other, &[leaf_node, |r| r.list(node)])
}

fn ciphertext(reader: &mut Reader<'_>) -> Option<Node> {
    reader.structure(Kind::Other, &[opaque, opaque])
}

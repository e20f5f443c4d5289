//! The 48-byte header of a cache file (kvcache.md §2.1), the C engine's container.

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 48;
/// Offset of the flags, rewritten in place when a tool map is added.
pub(crate) const FLAGS_OFFSET: u64 = 6;
/// Offset of the hit count, rewritten in place.
pub(crate) const HITS_OFFSET: u64 = 12;
/// Offset of the time of last use, rewritten in place.
pub(crate) const LAST_USED_OFFSET: u64 = 32;
/// Flag bit: a tool map follows the payload.
pub(crate) const FLAG_TOOLS: u8 = 1;

const MAGIC: [u8; 3] = *b"KVC";
const VERSION: u8 = 1;

/// Why a file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Unknown, or a value of a later version.
    Unknown,
    /// After the prefill of a prompt that nothing could be reused for.
    Cold,
    /// At a frontier during a long prefill or decode.
    Continued,
    /// Before another request took the sequence's place.
    Evict,
    /// At a clean exit.
    Shutdown,
    /// The C engine's agent: its system prompt.
    AgentPrompt,
    /// The C engine's agent: a saved session.
    AgentSession,
}

impl Reason {
    const fn code(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Cold => 1,
            Self::Continued => 2,
            Self::Evict => 3,
            Self::Shutdown => 4,
            Self::AgentPrompt => 5,
            Self::AgentSession => 6,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Cold,
            2 => Self::Continued,
            3 => Self::Evict,
            4 => Self::Shutdown,
            5 => Self::AgentPrompt,
            6 => Self::AgentSession,
            _ => Self::Unknown,
        }
    }

    /// Lower-case word for logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Cold => "cold",
            Self::Continued => "continued",
            Self::Evict => "evict",
            Self::Shutdown => "shutdown",
            Self::AgentPrompt => "agent-prompt",
            Self::AgentSession => "agent-session",
        }
    }
}

/// What the header says. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bits of the routed experts: 2, 4, or 0 for anything else.
    pub quant_bits: u8,
    /// Why the file was written.
    pub reason: Reason,
    /// Whether a tool map follows the payload.
    pub has_tools: bool,
    /// Cached tokens, never 0.
    pub tokens: u32,
    /// Times the file was used.
    pub hits: u32,
    /// Context size of the writer.
    pub ctx: u32,
    /// First four bytes of the model fingerprint.
    pub model: u32,
    /// Time of writing.
    pub created: u64,
    /// Time of last use.
    pub last_used: u64,
    /// Bytes of the payload.
    pub payload_bytes: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0u8; HEADER_BYTES];
        b[..3].copy_from_slice(&MAGIC);
        b[3] = VERSION;
        b[4] = self.quant_bits;
        b[5] = self.reason.code();
        b[6] = if self.has_tools { FLAG_TOOLS } else { 0 };
        b[8..12].copy_from_slice(&self.tokens.to_le_bytes());
        b[12..16].copy_from_slice(&self.hits.to_le_bytes());
        b[16..20].copy_from_slice(&self.ctx.to_le_bytes());
        b[20..24].copy_from_slice(&self.model.to_le_bytes());
        b[24..32].copy_from_slice(&self.created.to_le_bytes());
        b[32..40].copy_from_slice(&self.last_used.to_le_bytes());
        b[40..48].copy_from_slice(&self.payload_bytes.to_le_bytes());
        b
    }

    /// Decodes a header; the error says what is wrong.
    pub(crate) fn decode(b: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
        if b[..3] != MAGIC {
            return Err("not a KV cache file (no KVC at its start)".into());
        }
        if b[3] != VERSION {
            return Err(format!("KV cache file of version {}, expected {VERSION}", b[3]));
        }
        let tokens = u32_at(8);
        if tokens == 0 {
            return Err("header says 0 tokens".into());
        }
        Ok(Self {
            quant_bits: b[4],
            reason: Reason::from_code(b[5]),
            has_tools: b[6] & FLAG_TOOLS != 0,
            tokens,
            hits: u32_at(12),
            ctx: u32_at(16),
            model: u32_at(20),
            created: u64_at(24),
            last_used: u64_at(32),
            payload_bytes: u64_at(40),
        })
    }
}

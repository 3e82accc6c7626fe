//! Checks the page structure of `data.mdb` with plain reads, before LMDB maps the file.
//!
//! LMDB trusts its file: a page beyond its end is a SIGBUS, and an altered page number leads anywhere. So every page
//! that the newest meta page can reach is read here once, and must be whole, where it says it is, reachable once, and
//! not on the free list. The file may be shorter than the meta page's last page, as LMDB permits where the tail is
//! free. The values' own checksums are [`codec`](super::codec)'s part.
//!
//! Layout after lmdb 0.9's `mdb.c` (data version 1), little or big endian as the host is: LMDB files do not travel.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
const PAGE_HEADER: usize = 16;
const NODE_HEADER: usize = 8;
const NO_ROOT: u64 = u64::MAX;
/// LMDB's own limit (`CURSOR_STACK`).
const MAX_DEPTH: u16 = 32;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;
const NODE_BIG: u16 = 0x01;

/// What is wrong, for people; or the read failed.
#[derive(Debug)]
pub(super) enum PageFault {
    Io(io::Error),
    Damage(String),
}

impl From<io::Error> for PageFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn damage<T>(what: impl Into<String>) -> Result<T, PageFault> {
    Err(PageFault::Damage(what.into()))
}

struct Tree {
    depth: u16,
    root: u64,
}

struct Meta {
    free: Tree,
    main: Tree,
    last_page: u64,
    txn: u64,
}

struct Walk<'a> {
    file: &'a File,
    size: u64,
    page_size: usize,
    last_page: u64,
    seen: BTreeSet<u64>,
    freed: Vec<u64>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Checks every page the file's newest meta page reaches.
pub(super) fn check(file: &File) -> Result<(), PageFault> {
    let size = file.metadata()?.len();
    let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(4096);
    if size < 2 * page_size as u64 {
        return damage(format!("it is cut off at {size} bytes, before its two meta pages end"));
    }
    let metas = [read_meta(file, 0, page_size)?, read_meta(file, 1, page_size)?];
    // LMDB writes the two in turn: transaction n goes to page n & 1. An altered number would bring old data back.
    let [a, b] = metas;
    let in_turn = a.txn % 2 == 0 && (b.txn % 2 == 1 || b.txn == 0) && a.txn.abs_diff(b.txn) <= 1;
    if !in_turn {
        return damage(format!("its meta pages are of the transactions {} and {}", a.txn, b.txn));
    }
    let meta = if a.txn >= b.txn { a } else { b };
    let mut walk = Walk { file, size, page_size, last_page: meta.last_page, seen: BTreeSet::new(), freed: Vec::new() };
    walk.tree(&meta.main, false)?;
    walk.tree(&meta.free, true)?;
    match walk.freed.iter().find(|page| walk.seen.contains(page)) {
        Some(page) => damage(format!("page {page} is in use and on the free list")),
        None => Ok(()),
    }
}

fn read_meta(file: &File, number: u64, page_size: usize) -> Result<Meta, PageFault> {
    let mut bytes = vec![0; page_size];
    file.read_exact_at(&mut bytes, number * page_size as u64)?;
    parse_meta(&bytes, number, page_size)
        .ok_or_else(|| PageFault::Damage(format!("meta page {number} is no LMDB page")))
}

fn parse_meta(bytes: &[u8], number: u64, page_size: usize) -> Option<Meta> {
    let tree = |at: usize| Some(Tree { depth: u16_at(bytes, at + 6)?, root: u64_at(bytes, at + 40)? });
    let meta = PAGE_HEADER;
    let (free, main) = (meta + 24, meta + 72);
    let fits = u64_at(bytes, 0)? == number
        && u16_at(bytes, 10)? == META
        && u32_at(bytes, meta)? == MAGIC
        && u32_at(bytes, meta + 4)? == DATA_VERSION
        && u32_at(bytes, free)? as usize == page_size;
    let found = Meta {
        free: tree(free)?,
        main: tree(main)?,
        last_page: u64_at(bytes, main + 48)?,
        txn: u64_at(bytes, main + 56)?,
    };
    (fits && found.last_page >= 1 && found.last_page < NO_ROOT).then_some(found)
}

impl Walk<'_> {
    fn tree(&mut self, tree: &Tree, is_free_list: bool) -> Result<(), PageFault> {
        if tree.root == NO_ROOT {
            return Ok(());
        }
        if tree.depth == 0 || tree.depth > MAX_DEPTH {
            return damage(format!("a tree claims the depth {}", tree.depth));
        }
        self.page(tree.root, tree.depth, is_free_list)
    }

    /// Reads `count` pages from `number` on; each may be reached once only.
    fn read(&mut self, number: u64, count: u64) -> Result<Vec<u8>, PageFault> {
        let end = number.checked_add(count).filter(|end| number >= 2 && *end <= self.last_page.saturating_add(1));
        let Some(end) = end else {
            return damage(format!("it refers to page {number}, which does not exist"));
        };
        if end.checked_mul(self.page_size as u64).is_none_or(|bytes| bytes > self.size) {
            return damage(format!("it is cut off at {} bytes, page {number} is missing", self.size));
        }
        for page in number..end {
            if !self.seen.insert(page) {
                return damage(format!("page {page} is referred to twice"));
            }
        }
        let mut bytes = vec![0; self.page_size * count as usize];
        self.file.read_exact_at(&mut bytes, number * self.page_size as u64)?;
        if u64_at(&bytes, 0) != Some(number) {
            return damage(format!("page {number} is another page"));
        }
        Ok(bytes)
    }

    /// `height` levels are left, leaves included.
    fn page(&mut self, number: u64, height: u16, is_free_list: bool) -> Result<(), PageFault> {
        let bytes = self.read(number, 1)?;
        let broken = || PageFault::Damage(format!("page {number} is malformed"));
        let flags = u16_at(&bytes, 10).ok_or_else(broken)?;
        let lower = usize::from(u16_at(&bytes, 12).ok_or_else(broken)?);
        let upper = usize::from(u16_at(&bytes, 14).ok_or_else(broken)?);
        let wanted = if height == 1 { LEAF } else { BRANCH };
        if flags != wanted || lower < PAGE_HEADER || lower > upper || upper > self.page_size || lower % 2 != 0 {
            return Err(broken());
        }
        let nodes = (lower - PAGE_HEADER) / 2;
        if nodes == 0 || (wanted == BRANCH && nodes < 2) {
            return Err(broken());
        }
        for node in 0..nodes {
            let at = usize::from(u16_at(&bytes, PAGE_HEADER + 2 * node).ok_or_else(broken)?);
            if at < upper {
                return Err(broken());
            }
            let node = bytes.get(at..).ok_or_else(broken)?;
            let done =
                if wanted == LEAF { self.leaf(node, is_free_list)? } else { self.branch(node, height, is_free_list)? };
            done.ok_or_else(broken)?;
        }
        Ok(())
    }

    /// None: the node is malformed.
    fn branch(&mut self, node: &[u8], height: u16, is_free_list: bool) -> Result<Option<()>, PageFault> {
        let parts = (u16_at(node, 0), u16_at(node, 2), u16_at(node, 4), u16_at(node, 6));
        let (Some(low), Some(high), Some(top), Some(key)) = parts else { return Ok(None) };
        if node.len() < NODE_HEADER + usize::from(key) {
            return Ok(None);
        }
        let (low, high) = if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
        let child = u64::from(low) | u64::from(high) << 16 | u64::from(top) << 32;
        self.page(child, height - 1, is_free_list)?;
        Ok(Some(()))
    }

    /// None: the node is malformed.
    fn leaf(&mut self, node: &[u8], is_free_list: bool) -> Result<Option<()>, PageFault> {
        let parts = (u16_at(node, 0), u16_at(node, 2), u16_at(node, 4), u16_at(node, 6));
        let (Some(low), Some(high), Some(flags), Some(key)) = parts else { return Ok(None) };
        let (low, high) = if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
        let length = usize::from(low) | usize::from(high) << 16;
        let begin = NODE_HEADER + usize::from(key);
        let value = match flags {
            0 => node.get(begin..begin + length).map(<[u8]>::to_vec),
            NODE_BIG => match u64_at(node, begin) {
                Some(first) => Some(self.overflow(first, length)?),
                None => None,
            },
            _ => None,
        };
        match value {
            Some(value) if is_free_list => Ok(self.note_freed(&value)),
            value => Ok(value.map(|_| ())),
        }
    }

    fn overflow(&mut self, first: u64, length: usize) -> Result<Vec<u8>, PageFault> {
        let pages = (PAGE_HEADER + length).div_ceil(self.page_size) as u64;
        let bytes = self.read(first, pages)?;
        if u16_at(&bytes, 10) != Some(OVERFLOW) || u32_at(&bytes, 12).map(u64::from) != Some(pages) {
            return damage(format!("page {first} is no overflow page of {pages}"));
        }
        Ok(bytes.get(PAGE_HEADER..PAGE_HEADER + length).map(<[u8]>::to_vec).unwrap_or_default())
    }

    /// A record of the free list: a count, then so many page numbers. None: malformed.
    fn note_freed(&mut self, value: &[u8]) -> Option<()> {
        let count = usize::try_from(u64_at(value, 0)?).ok()?;
        let numbers = value.get(8..count.checked_mul(8)?.checked_add(8)?)?;
        for chunk in numbers.chunks_exact(8) {
            let page = u64_at(chunk, 0).filter(|page| (2..=self.last_page).contains(page))?;
            self.freed.push(page);
        }
        Some(())
    }
}

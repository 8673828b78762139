//! A map's values as memory of this process.

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use lb_common::layout::{
    Backend, BackendInfo, Bucket, FilterLine, FragmentLine, IndexLine, Limit, Load, MaglevLine, Meta,
    MetaHead, NatAddress, NatLine, NatPort, NextHop, OverflowLine, Pool, PoolInfo, RangeLine, ServerIds,
    Service, ServiceInfo, SourceLine, Vip, VipInfo, VipLineV6,
};
use lb_common::trace::Trace;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A type whose values live in memory shared with the kernel.
///
/// # Safety
/// Any bytes, and bytes that change at any time through shared words, are a valid value; the size is a multiple of 8.
pub unsafe trait MapValue: Sized {}

macro_rules! map_values {
    ($($value:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)`, integers, byte arrays and shared words only; the size is asserted below.
            unsafe impl MapValue for $value {}
            const _: () = assert!(size_of::<$value>() % 8 == 0);
        )*
    };
}

map_values!(
    Backend,
    BackendInfo,
    Bucket<1>,
    Bucket<3>,
    FilterLine,
    FragmentLine,
    IndexLine,
    Limit,
    Load,
    MaglevLine,
    Meta,
    MetaHead,
    NatAddress,
    NatLine,
    NatPort,
    NextHop,
    OverflowLine,
    Pool,
    PoolInfo,
    RangeLine,
    ServerIds,
    Service,
    ServiceInfo,
    SourceLine,
    Trace,
    Vip,
    VipInfo,
    VipLineV6,
);

/// Who may write through a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For lists without the daemon.
    ReadOnly,
    /// For the daemon.
    ReadWrite,
}

/// The values of a `BPF_F_MMAPABLE` array, or of plain memory.
///
/// Derefs to a slice. Shared words in it are written through `&`; other fields by [`Mapping::update`].
pub struct Mapping<T: MapValue> {
    start: NonNull<T>,
    length: usize,
    access: Access,
    values: PhantomData<T>,
}

// SAFETY: the mapping is memory of the process, tied to no thread.
unsafe impl<T: MapValue> Send for Mapping<T> {}
// SAFETY: `&Mapping` gives out `&T` only, whose changing parts are shared words; `update` documents its duty.
unsafe impl<T: MapValue> Sync for Mapping<T> {}

impl<T: MapValue> Mapping<T> {
    /// Maps the `length` values of the array map `fd`.
    ///
    /// # Errors
    /// Those of mmap(2): EPERM without write access to the map, EINVAL for a map that cannot be mapped.
    pub fn of_map(fd: BorrowedFd<'_>, length: usize, access: Access) -> io::Result<Self> {
        let protection = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        let bytes = length * size_of::<T>();
        // SAFETY: a null address lets the kernel choose; no existing mapping is replaced.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) }?;
        Ok(Self::new(start.cast(), length, access))
    }

    /// `length` zeroed values of plain memory.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn anonymous(length: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let bytes = (length * size_of::<T>()).max(1);
        // SAFETY: a null address lets the kernel choose; no existing mapping is replaced.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) }?;
        Ok(Self::new(start.cast(), length, Access::ReadWrite))
    }

    fn new(start: *mut T, length: usize, access: Access) -> Self {
        let start = NonNull::new(start).expect("mmap gives no null address on success");
        Self { start, length, access, values: PhantomData }
    }

    /// Lets `change` rewrite value `index`, also its unshared fields.
    ///
    /// The data plane may read the value meanwhile: callers change unshared fields only while no shared word
    /// names them (an unpublished region, the copy that is not selected, a free id).
    ///
    /// # Panics
    /// For an index past the end, and on a read-only mapping.
    pub fn update(&self, index: usize, change: impl FnOnce(&mut T)) {
        assert!(index < self.length, "map value {index} of {}", self.length);
        assert_eq!(self.access, Access::ReadWrite, "read-only mapping");
        // SAFETY: the index was checked.
        let value = unsafe { self.start.add(index) };
        // SAFETY: in bounds and aligned; the control plane is the single writer of unshared fields and makes no other
        // reference to them while it changes them.
        change(unsafe { &mut *value.as_ptr() });
    }
}

impl<T: MapValue> Deref for Mapping<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `length` values, page-aligned, for as long as `self` lives; any bytes are valid.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T: MapValue> Drop for Mapping<T> {
    fn drop(&mut self) {
        let bytes = (self.length * size_of::<T>()).max(1);
        // SAFETY: the mapping was made by `mmap` with this size, and nothing borrowed from it outlives `self`.
        // Failure would leave it mapped, which is harmless.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), bytes) };
    }
}

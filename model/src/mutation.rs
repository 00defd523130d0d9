// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bugs that break the promises.

use crate::property::Property;

/// Declares the planted bugs: name, what is wrong, which promise it breaks, in which scenario.
macro_rules! mutations {
    ($($name:ident: $says:literal, $breaks:ident, $scenario:literal;)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mutation {
            $(#[doc = $says] $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &'static [Mutation] = &[$(Mutation::$name,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Mutation::$name => stringify!($name),)* }
            }

            /// What is wrong.
            pub fn says(self) -> &'static str {
                match self { $(Mutation::$name => $says,)* }
            }

            /// The promise that it breaks.
            pub fn breaks(self) -> Property {
                match self { $(Mutation::$name => Property::$breaks,)* }
            }

            /// The scenario that shows it.
            pub fn scenario(self) -> &'static str {
                match self { $(Mutation::$name => $scenario,)* }
            }
        }
    };
}

mutations! {
    NoBusyCheck: "The breaker trusts the registry alone and skips B4", BlocksStay, "pins";
    NoSecondRegistryCheck: "After a wait the breaker goes on at B3, not at B1", CallsEnd, "threads";
    NoSecondLeaseCheck: "After a wait the breaker does not look for leases again", LeaseHolds, "transfers";
    NoWakeUp: "The pinner skips P7", RefusalComesAtOnce, "threads";
    WaitersCountedLate: "The breaker counts itself as a waiter after it has looked at the condition", RefusalComesAtOnce, "threads";
    WaitKeepsLock: "The breaker sleeps at B4 with the invalidate_lock held", CallsEnd, "threads";
    WaitForRefcountZero: "The breaker sleeps at B4 until the refcount is zero, without a limit", CallsEnd, "transfers";
    FaultWithoutLock: "A page fault does not take the invalidate_lock", BlocksStay, "pins";
    GrantWithoutInvalidateLock: "F_SETLEASE does not take the invalidate_lock", LeaseHolds, "leases";
    ReservationsRefuse: "The breaker counts reservations as refusals at B1", RefusalHasCause, "threads";
    NotNarrowed: "P6 leaves the range as wide as it was reserved", RefusalHasCause, "pins";
    NotWidened: "P6 does not widen the range to whole entries", CallsEnd, "pmd";
    RecordAfterReference: "The range is reserved after the pages have been referenced", WritesReachMedia, "writeback";
    NoLeaseRecheck: "The pinner skips P5", PinnedIsNotShared, "reflink";
    UnmapBeforeCheck: "The breaker unmaps, B3, before it asks, B1", RefusalTouchesNothing, "pins";
    BreakLeasesFirst: "The breaker breaks leases, B2, before it asks, B1", RefusalTouchesNothing, "leases";
    UnpinBeforeDeviceStops: "The pages are unpinned and the record is erased while the device runs", BlocksStay, "threads";
    EraseBeforeUnpin: "file_pins_free() comes before the pages are unpinned", HolderHasRecord, "pins";
    FileReleasedBeforeUnpin: "The file is released before the pages are unpinned", EvictMeetsNoPin, "lifetimes";
    OwnerHoldsFile: "The owner holds a reference to its file", RecordHasHolder, "lifetimes";
    NoPgmapReference: "A pin takes no reference to the device mapping", MemoryStays, "unbind";
    WritebackForgetsPins: "Writeback does not ask the registry", WritesReachMedia, "writeback";
    WritebackAsksLate: "Writeback asks the registry after it has flushed", WritesReachMedia, "writeback";
    UnmapsRangeOnly: "B3 unmaps the range of the call, but not the rest of an entry that reaches outside it", MappedHasEntry, "pmd";
    NoFlushOutside: "B5 does not flush entries that reach outside the range", WritesReachMedia, "pmd";
    InvalidationForgetsPins: "invalidate_inode_pages2() drops clean entries of busy pages", EntryStays, "invalidation";
    InvalidationLooksFirst: "invalidate_inode_pages2() looks for busy pages before they are unmapped", EntryStays, "invalidation";
}

impl std::fmt::Display for Mutation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

//! The code of the apps that were used last, so that the next change of their chains need not make it again. Pins hold an app's maps and
//! programs, and the object store its bytes: what is not here is made from these. So this may hold little: as much memory and as many
//! descriptors whatever apps there are, and however many maps they have.
//!
//! It must never hold what is not pinned.

use std::collections::VecDeque;
use std::sync::Arc;

use bpfd_core::ident::AppUid;

use super::prepare::{AppCode, Codes};

/// Descriptors of maps and types: a quarter of the 1024 that a service has by default.
const DESCRIPTORS: usize = 256;
/// Bytes of instructions: those of 2 million, twice what the verifier looks at in one program.
const BYTES: usize = 16 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct CodeCache {
    /// The one used last is in front.
    apps: VecDeque<(AppUid, Arc<AppCode>)>,
}

impl CodeCache {
    /// The code of an app, if it is here.
    pub(super) fn code(&mut self, app: AppUid) -> Option<Arc<AppCode>> {
        let place = self.apps.iter().position(|(of, _)| *of == app)?;
        let used = self.apps.remove(place)?;
        let code = used.1.clone();
        self.apps.push_front(used);
        Some(code)
    }

    /// Code that was just used. What is beyond the limits goes, the one longest unused first.
    pub(super) fn keep(&mut self, codes: Codes) {
        for (app, code) in codes {
            self.forget(app);
            self.apps.push_front((app, code));
        }
        let kept = within(self.apps.iter().map(|(_, code)| (code.descriptors(), code.bytes())));
        self.apps.truncate(kept);
    }

    /// The app's pins go.
    pub(super) fn forget(&mut self, app: AppUid) {
        self.apps.retain(|(of, _)| *of != app);
    }
}

/// How many of these, with their descriptors and bytes, may be kept together.
fn within(sizes: impl Iterator<Item = (usize, usize)>) -> usize {
    let (mut descriptors, mut bytes) = (0_usize, 0_usize);
    let fits = |(more, long): &(usize, usize)| {
        descriptors = descriptors.saturating_add(*more);
        bytes = bytes.saturating_add(*long);
        descriptors <= DESCRIPTORS && bytes <= BYTES
    };
    sizes.take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kernel::types::Types;

    #[test]
    fn as_many_are_kept_as_fit_in_both_limits() {
        assert_eq!(within([(10, 100); 1000].into_iter()), DESCRIPTORS / 10);
        assert_eq!(within([(1, BYTES / 3); 9].into_iter()), 3);
        assert_eq!(within([(1, BYTES + 1), (1, 1)].into_iter()), 0);
    }

    #[test]
    fn the_app_that_was_used_last_is_kept_longest() {
        let code = || Arc::new(AppCode { maps: BTreeMap::new(), programs: BTreeMap::new(), types: Types::None });
        let app = |number| AppUid::from_bytes([number; 16]);
        let mut cache = CodeCache::default();
        cache.keep([(app(1), code()), (app(2), code())].into());
        assert!(cache.code(app(1)).is_some());
        assert_eq!(cache.apps.iter().map(|(app, _)| *app).collect::<Vec<_>>(), [app(1), app(2)]);
        cache.forget(app(1));
        assert!(cache.code(app(1)).is_none() && cache.code(app(2)).is_some());
    }
}

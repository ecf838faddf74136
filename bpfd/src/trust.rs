//! Whose signatures count: the policy files, read, checked and reloaded.

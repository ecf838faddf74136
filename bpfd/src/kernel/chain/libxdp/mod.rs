//! Chains in libxdp's form: dispatchers (`load`: as a program, `dispatcher`: filled, held, read), the copies of programs for their slots
//! (`copy`), and libxdp's directory and lock (`directory`).

pub(crate) mod copy;
pub(crate) mod directory;
pub(crate) mod dispatcher;
pub(crate) mod load;

//! Chains in libxdp's form: dispatchers (`load`: as a program, `dispatcher`: filled, held, read), the copies of programs for their slots
//! (`copy`), libxdp's directory and lock (`directory`), and which version the installed libxdp makes (`installed`).

pub(crate) mod copy;
pub(crate) mod directory;
pub(crate) mod dispatcher;
pub(crate) mod installed;
pub(crate) mod load;

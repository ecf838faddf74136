//! Images in the daemon: pulled by the fetch worker, verified here, kept in the OCI layout.

//! The front end: RESP in, requests to groups out.

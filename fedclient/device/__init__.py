"""The state folder of one device: keys, database, blobs, and the head that apps predict with."""

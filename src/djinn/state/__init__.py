"""What belongs to a session: its storages, how they are found, and the views in which a caller reads them."""

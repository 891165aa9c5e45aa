"""Mail goes out from here: sessions with SMTP servers, the transactions in them, and a server that only catches."""

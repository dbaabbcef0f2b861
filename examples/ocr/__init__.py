"""Reading lines of text: a recogniser deployed, proved and used."""

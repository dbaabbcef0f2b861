"""From one document to what people read: terminal, one HTML file, Markdown."""

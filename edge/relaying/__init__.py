"""What one worker does for another: each response has one owner among them, which answers for all."""

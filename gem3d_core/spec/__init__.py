"""All settings of the method as frozen values, and the words that every room uses. Free of torch."""

create schema if not exists shop;

create table if not exists shop.customers (
  id bigint generated always as identity primary key,
  name text not null,
  email text
);

create table if not exists shop.orders (
  id bigint generated always as identity primary key,
  customer_id bigint not null references shop.customers,
  total numeric(10, 2) not null,
  status text not null default 'new',
  shipped_at timestamptz
);

with customer as (
  insert into shop.customers (name, email)
  values ('Ada', 'ada@example.com'), ('Grace', 'grace@example.com'), ('Nobody', null)
  returning id
)
insert into shop.orders (customer_id, total)
select id, 10 * id + 0.5
  from customer;

update shop.orders
   set status = 'shipped', shipped_at = now()
 where status = 'new' and total > 15;
